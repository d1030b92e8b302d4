/* The stories of story.py as a native extension: `MODE&FILE` in the query. */
#include "oxid_isapi.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    EXTENSION_CONTROL_BLOCK *ecb;
    HCONN conn; /* kept: the control block may be gone after DONE */
    char mode[32];
    char file[400];
    DWORD status;
    int step;
    int again;
    char buffer[128];
    DWORD size, flags;
} Story;

static void note(Story *story, const char *format, ...)
{
    FILE *out = fopen(story->file, "a");
    va_list list;
    if (!out)
        return;
    va_start(list, format);
    vfprintf(out, format, list);
    va_end(list);
    fputc('\n', out);
    fclose(out);
}

static void head(Story *story, int length, BOOL keep)
{
    HSE_SEND_HEADER_EX_INFO info = {0};
    char lines[200] = "Content-Type: text/plain\r\n\r\n";
    if (length >= 0)
        snprintf(lines, sizeof lines, "Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n", length);
    info.pszStatus = "200 OK";
    info.pszHeader = lines;
    info.fKeepConn = keep;
    story->ecb->ServerSupportFunction(story->conn, HSE_REQ_SEND_RESPONSE_HEADER_EX, &info, NULL, NULL);
}

static BOOL put(Story *story, const char *text, DWORD flags)
{
    DWORD size = (DWORD)strlen(text);
    return story->ecb->WriteClient(story->conn, (void *)text, &size, flags);
}

static void answer(Story *story)
{
    head(story, 5, TRUE);
    put(story, "hello", HSE_IO_SYNC);
}

typedef BOOL (*Support)(HCONN, DWORD, void *, DWORD *, DWORD *);

static void done(Story *story, DWORD status)
{
    story->ecb->ServerSupportFunction(story->conn, HSE_REQ_DONE_WITH_SESSION, &status, NULL, NULL);
}

static void report(Story *story, const char *name, BOOL ok)
{
    if (ok)
        note(story, "%s ok", name);
    else
        note(story, "%s %u", name, GetLastError());
}

static void *done_later(void *argument)
{
    Story *story = argument;
    Support support = story->ecb->ServerSupportFunction;
    DWORD status = story->status;
    answer(story);
    support(story->conn, HSE_REQ_DONE_WITH_SESSION, &status, NULL, NULL);
    if (story->again)
        report(story, "DoneWithSession", support(story->conn, HSE_REQ_DONE_WITH_SESSION, &status, NULL, NULL));
    free(story);
    return NULL;
}

static void *only_done(void *argument)
{
    Story *story = argument;
    done(story, HSE_STATUS_SUCCESS_AND_KEEP_CONN);
    free(story);
    return NULL;
}

static void *wait_lost(void *argument)
{
    Story *story = argument;
    BOOL there = TRUE;
    while (there) {
        story->ecb->ServerSupportFunction(story->conn, HSE_REQ_IS_CONNECTED, &there, NULL, NULL);
        usleep(200);
    }
    report(story, "WriteClient", put(story, "x", HSE_IO_SYNC));
    done(story, HSE_STATUS_SUCCESS);
    note(story, "done");
    free(story);
    return NULL;
}

static DWORD later(Story *story, void *(*work)(void *))
{
    pthread_t thread;
    pthread_create(&thread, NULL, work, story);
    pthread_detach(thread);
    return HSE_STATUS_PENDING;
}

static void sent(EXTENSION_CONTROL_BLOCK *ecb, void *context, DWORD bytes, DWORD error)
{
    Story *story = context;
    (void)ecb;
    note(story, "sent %u %u", bytes, error);
    if (!strcmp(story->mode, "transmit"))
        done(story, HSE_STATUS_SUCCESS_AND_KEEP_CONN);
    free(story);
}

static void was_read(EXTENSION_CONTROL_BLOCK *ecb, void *context, DWORD bytes, DWORD error)
{
    Story *story = context;
    (void)ecb;
    note(story, "read %u %u", bytes, error);
    if (!strcmp(story->mode, "secondio")) {
        answer(story);
        done(story, HSE_STATUS_SUCCESS);
    } else if (!strcmp(story->mode, "cancel")) {
        answer(story);
        done(story, HSE_STATUS_SUCCESS_AND_KEEP_CONN);
    } else {
        done(story, HSE_STATUS_SUCCESS);
        note(story, "done");
    }
    free(story);
}

static void was_written(EXTENSION_CONTROL_BLOCK *ecb, void *context, DWORD bytes, DWORD error)
{
    static const char *pieces[] = {"ll", "o"};
    Story *story = context;
    (void)ecb;
    if (!strcmp(story->mode, "writedone")) {
        note(story, "written %u %u", bytes, error);
    } else if (story->step < 2) {
        put(story, pieces[story->step++], HSE_IO_ASYNC);
        return;
    } else {
        done(story, HSE_STATUS_SUCCESS_AND_KEEP_CONN);
    }
    free(story);
}

static void completion(Story *story, PFN_HSE_IO_COMPLETION callback)
{
    story->ecb->ServerSupportFunction(story->conn, HSE_REQ_IO_COMPLETION, (void *)callback, NULL, (DWORD *)story);
}

static BOOL read_async(Story *story)
{
    story->size = 100;
    story->flags = HSE_IO_ASYNC;
    return story->ecb->ServerSupportFunction(
        story->conn, HSE_REQ_ASYNC_READ_CLIENT, story->buffer, &story->size, &story->flags);
}

static DWORD transmit(Story *story)
{
    HSE_TF_INFO info = {0};
    int file = open(story->file, O_RDONLY | O_CREAT, 0600);
    static const char path[] = "/proc/self/exe";
    close(file);
    file = open(path, O_RDONLY);
    head(story, 5, TRUE);
    info.pfnHseIO = sent;
    info.pContext = story;
    info.hFile = (HANDLE)(intptr_t)file;
    info.BytesToWrite = 5;
    info.dwFlags = HSE_IO_ASYNC;
    if (!story->ecb->ServerSupportFunction(story->conn, HSE_REQ_TRANSMIT_FILE, &info, NULL, NULL))
        note(story, "transmit %u", GetLastError());
    close(file);
    return HSE_STATUS_SUCCESS;
}

static DWORD echo(Story *story)
{
    EXTENSION_CONTROL_BLOCK *ecb = story->ecb;
    char *data = malloc(ecb->cbTotalBytes + 1);
    DWORD have = ecb->cbAvailable;
    memcpy(data, ecb->lpbData, have);
    while (have < ecb->cbTotalBytes) {
        DWORD size = ecb->cbTotalBytes - have;
        if (!ecb->ReadClient(story->conn, data + have, &size) || !size)
            break;
        have += size;
    }
    head(story, (int)have, TRUE);
    ecb->WriteClient(story->conn, data, &have, HSE_IO_SYNC);
    free(data);
    return HSE_STATUS_SUCCESS_AND_KEEP_CONN;
}

BOOL GetExtensionVersion(HSE_VERSION_INFO *version)
{
    version->dwExtensionVersion = HSE_VERSION_MAJOR << 16 | HSE_VERSION_MINOR;
    strcpy(version->lpszExtensionDesc, "Stories for tests");
    return TRUE;
}

BOOL TerminateExtension(DWORD flags)
{
    (void)flags;
    return TRUE;
}

#define IS(name) (!strcmp(story->mode, name))

DWORD HttpExtensionProc(EXTENSION_CONTROL_BLOCK *ecb)
{
    Story *story = calloc(1, sizeof *story);
    const char *and = strchr(ecb->lpszQueryString, '&');
    DWORD result = HSE_STATUS_ERROR;
    story->ecb = ecb;
    story->conn = ecb->ConnID;
    if (and) {
        snprintf(story->mode, sizeof story->mode, "%.*s", (int)(and - ecb->lpszQueryString), ecb->lpszQueryString);
        snprintf(story->file, sizeof story->file, "%s", and + 1);
    }
    if (IS("success")) {
        answer(story);
        result = HSE_STATUS_SUCCESS;
    } else if (IS("keep")) {
        answer(story);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("nolength")) {
        head(story, -1, TRUE);
        put(story, "hello", HSE_IO_SYNC);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("short")) {
        head(story, 9, TRUE);
        put(story, "hello", HSE_IO_SYNC);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("nokeep")) {
        head(story, 5, FALSE);
        put(story, "hello", HSE_IO_SYNC);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("pending1") || IS("pending2") || IS("double")) {
        story->status = IS("pending1") ? HSE_STATUS_SUCCESS : HSE_STATUS_SUCCESS_AND_KEEP_CONN;
        story->again = IS("double");
        return later(story, done_later);
    } else if (IS("donefirst")) {
        answer(story);
        done(story, HSE_STATUS_SUCCESS_AND_KEEP_CONN);
        report(story, "WriteClient", put(story, "late", HSE_IO_SYNC));
        result = HSE_STATUS_PENDING;
    } else if (IS("donesuccess")) {
        answer(story);
        done(story, HSE_STATUS_SUCCESS_AND_KEEP_CONN);
        result = HSE_STATUS_SUCCESS;
    } else if (IS("race")) {
        answer(story);
        return later(story, only_done);
    } else if (IS("transmit") || IS("transmitonly")) {
        return transmit(story);
    } else if (IS("never")) {
        note(story, "pending");
        result = HSE_STATUS_PENDING;
    } else if (IS("lost")) {
        note(story, "waiting");
        return later(story, wait_lost);
    } else if (IS("lostread") || IS("secondio") || IS("cancel") || IS("closeread")) {
        Story copy = *story; /* the callback may free the story while we still run */
        completion(story, was_read);
        read_async(story);
        story = &copy;
        if (IS("secondio"))
            report(story, "WriteClient", put(story, "x", HSE_IO_ASYNC));
        if (IS("cancel"))
            ecb->ServerSupportFunction(story->conn, HSE_REQ_CANCEL_IO, NULL, NULL, NULL);
        else if (IS("closeread"))
            ecb->ServerSupportFunction(story->conn, HSE_REQ_CLOSE_CONNECTION, NULL, NULL, NULL);
        else
            note(story, "waiting");
        return HSE_STATUS_PENDING;
    } else if (IS("faultlate")) {
        head(story, 9, TRUE);
        put(story, "hello", HSE_IO_SYNC);
        result = HSE_STATUS_ERROR;
    } else if (IS("badstatus")) {
        result = 77;
    } else if (IS("writedone")) {
        HCONN conn = story->conn;
        DWORD keep = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
        Support support = ecb->ServerSupportFunction;
        head(story, 5, TRUE);
        completion(story, was_written);
        put(story, "hello", HSE_IO_ASYNC);
        support(conn, HSE_REQ_DONE_WITH_SESSION, &keep, NULL, NULL);
        return HSE_STATUS_PENDING;
    } else if (IS("chain")) {
        head(story, 5, TRUE);
        completion(story, was_written);
        put(story, "he", HSE_IO_ASYNC);
        return HSE_STATUS_PENDING;
    } else if (IS("echo")) {
        result = echo(story);
    } else if (IS("connid")) {
        note(story, "connid %llu", (unsigned long long)(uintptr_t)story->conn);
        answer(story);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("crash")) {
        abort();
    } else if (IS("crashlate")) {
        head(story, 9, TRUE);
        put(story, "hello", HSE_IO_SYNC);
        usleep(50000); /* let it reach the client */
        abort();
    }
    free(story);
    return result;
}
