/* Calls the support function that the query names, and answers what came of it, a line each. */
#include "oxid_isapi.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    EXTENSION_CONTROL_BLOCK *ecb;
    char out[8192];
    size_t used;
} Answer;

static void say(Answer *answer, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    answer->used += (size_t)vsnprintf(answer->out + answer->used, sizeof answer->out - answer->used, format, list);
    va_end(list);
}

static BOOL call(Answer *answer, DWORD code, void *buffer, DWORD *size, DWORD *type)
{
    BOOL ok = answer->ecb->ServerSupportFunction(answer->ecb->ConnID, code, buffer, size, type);
    if (ok)
        say(answer, "%u ok\n", code);
    else
        say(answer, "%u error %u\n", code, GetLastError());
    return ok;
}

static void variable(Answer *answer, const char *name, DWORD room)
{
    char value[2048];
    DWORD size = room;
    if (answer->ecb->GetServerVariable(answer->ecb->ConnID, (char *)name, room ? value : NULL, &size))
        say(answer, "%s=%.*s|%u\n", name, (int)size - 1, value, size);
    else
        say(answer, "%s error %u %u\n", name, GetLastError(), size);
}

static DWORD send_all(Answer *answer)
{
    char lines[200];
    HSE_SEND_HEADER_EX_INFO info = {0};
    DWORD size = (DWORD)answer->used;
    snprintf(lines, sizeof lines, "Content-Type: text/plain\r\nContent-Length: %u\r\n\r\n", size);
    info.pszStatus = "200 OK trailing";
    info.cchStatus = 6;
    info.pszHeader = lines;
    info.fKeepConn = 7; /* any value but zero is true */
    answer->ecb->ServerSupportFunction(answer->ecb->ConnID, HSE_REQ_SEND_RESPONSE_HEADER_EX, &info, NULL, NULL);
    answer->ecb->WriteClient(answer->ecb->ConnID, answer->out, &size, HSE_IO_SYNC);
    return HSE_STATUS_SUCCESS_AND_KEEP_CONN;
}

static void exec_done(EXTENSION_CONTROL_BLOCK *ecb, void *context, DWORD bytes, DWORD error)
{
    DWORD keep = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    HSE_EXEC_URL_STATUS status = {0};
    (void)context, (void)bytes, (void)error;
    ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_GET_EXEC_URL_STATUS, &status, NULL, NULL);
    snprintf(ecb->lpszLogData, sizeof ecb->lpszLogData, "exec %u", status.uHttpStatusCode);
    ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_DONE_WITH_SESSION, &keep, NULL, NULL);
}

static void questions(Answer *answer)
{
    char text[300];
    DWORD size, number = 77, async = HSE_IO_ASYNC;
    BOOL flag = 77;
    HANDLE token = NULL, again = NULL;
    HSE_URL_MAPEX_INFO map;
    HSE_UNICODE_URL_MAPEX_INFO wide;
    HSE_TRACE_INFO trace;
    OXID_WCHAR url[] = {'/', 'a', 0};
    PFN_HSE_CACHE_INVALIDATION_CALLBACK invalidate = NULL;
    uint8_t token_bytes[64];

    strcpy(text, "/sub/file.txt");
    size = sizeof text;
    if (call(answer, HSE_REQ_MAP_URL_TO_PATH, text, &size, NULL))
        say(answer, "path %s %d\n", strrchr(text, '/'), (int)(strlen(text) + 1 == size));
    strcpy(text, "/sub/file.txt");
    size = 3;
    call(answer, HSE_REQ_MAP_URL_TO_PATH, text, &size, NULL);
    say(answer, "needed %d\n", size > 3);
    call(answer, HSE_REQ_MAP_URL_TO_PATH, NULL, &size, NULL);
    if (call(answer, HSE_REQ_MAP_URL_TO_PATH_EX, "/sub/file.txt", NULL, (DWORD *)&map))
        say(answer, "flags %u url %u\n", map.dwFlags, map.cchMatchingURL);
    call(answer, HSE_REQ_MAP_URL_TO_PATH_EX, "/x", NULL, NULL);
    size = sizeof text;
    memcpy(text, url, sizeof url);
    call(answer, HSE_REQ_MAP_UNICODE_URL_TO_PATH, text, &size, NULL);
    call(answer, HSE_REQ_MAP_UNICODE_URL_TO_PATH_EX, url, NULL, (DWORD *)&wide);
    call(answer, HSE_REQ_GET_SSPI_INFO, text, NULL, (DWORD *)text);
    call(answer, HSE_APPEND_LOG_PARAMETER, "extra", NULL, NULL);
    call(answer, HSE_REQ_REFRESH_ISAPI_ACL, NULL, NULL, NULL);
    call(answer, HSE_REQ_IS_KEEP_CONN, &flag, NULL, NULL);
    say(answer, "keep %d\n", flag);
    call(answer, HSE_REQ_IS_KEEP_CONN, NULL, NULL, NULL);
    call(answer, HSE_REQ_IS_CONNECTED, &flag, NULL, NULL);
    say(answer, "connected %d\n", flag);
    call(answer, HSE_REQ_IS_IN_PROCESS, &number, NULL, NULL);
    say(answer, "isolation %u\n", number);
    call(answer, HSE_REQ_GET_IMPERSONATION_TOKEN, &token, NULL, NULL);
    call(answer, HSE_REQ_GET_IMPERSONATION_TOKEN, &again, NULL, NULL);
    say(answer, "token %d same %d\n", token != NULL, token == again);
    call(answer, HSE_REQ_GET_ANONYMOUS_TOKEN, "/LM/W3SVC/1/ROOT", NULL, (DWORD *)&token);
    call(answer, HSE_REQ_GET_UNICODE_ANONYMOUS_TOKEN, url, NULL, (DWORD *)&token);
    strcpy(text, "/a/./b/../c%41");
    if (call(answer, HSE_REQ_NORMALIZE_URL, text, NULL, NULL))
        say(answer, "normal %s\n", text);
    strcpy(text, "/../x");
    call(answer, HSE_REQ_NORMALIZE_URL, text, NULL, NULL);
    call(answer, HSE_REQ_GET_TRACE_INFO, &trace, NULL, NULL);
    say(answer, "traced %d\n", trace.fTraceRequest);
    call(answer, HSE_REQ_GET_TRACE_INFO_EX, &trace, NULL, NULL);
    call(answer, HSE_REQ_RAISE_TRACE_EVENT, &trace, NULL, NULL);
    call(answer, HSE_REQ_SET_FLUSH_FLAG, (void *)1, NULL, NULL);
    call(answer, HSE_REQ_SET_FLUSH_FLAG, NULL, NULL, NULL);
    if (call(answer, HSE_REQ_GET_CACHE_INVALIDATION_CALLBACK, &invalidate, NULL, NULL))
        say(answer, "invalidated %d\n", invalidate(url));
    call(answer, HSE_REQ_CANCEL_IO, NULL, NULL, NULL);
    size = sizeof token_bytes;
    call(answer, HSE_REQ_GET_CHANNEL_BINDING_TOKEN, token_bytes, &size, NULL);
    size = 10;
    call(answer, HSE_REQ_ASYNC_READ_CLIENT, text, &size, &async); /* no callback */
    call(answer, HSE_REQ_EXEC_URL, NULL, NULL, NULL);
    call(answer, HSE_REQ_TRANSMIT_FILE, NULL, NULL, NULL);
    call(answer, HSE_REQ_VECTOR_SEND, NULL, NULL, NULL);
    call(answer, HSE_REQ_SEND_CUSTOM_ERROR, NULL, NULL, NULL);
    call(answer, HSE_REQ_GET_CONFIG_OBJECT, text, NULL, NULL);
    call(answer, HSE_REQ_GET_WORKER_PROCESS_SETTINGS, text, NULL, NULL);
    for (number = 0; number < 1100; number++) {
        if (number == 5 || number == 1004 || number == 1009 || number == 1013 || number == 1019 || number == 1029)
            call(answer, number, text, &size, &async);
    }
}

static void variables(Answer *answer)
{
    variable(answer, "REQUEST_METHOD", 100);
    variable(answer, "REQUEST_METHOD", 3);
    variable(answer, "REQUEST_METHOD", 0);
    variable(answer, "HTTP_X_THING", 100);
    variable(answer, "HEADER_X-Thing", 100);
    variable(answer, "HTTP_ABSENT", 100);
    variable(answer, "NO_SUCH_THING", 100);
    answer->ecb->GetServerVariable(answer->ecb->ConnID, NULL, NULL, NULL);
    say(answer, "null error %u\n", GetLastError());
}

static void misuse(Answer *answer)
{
    EXTENSION_CONTROL_BLOCK *ecb = answer->ecb;
    DWORD size = 0xFFFFFFFF;
    char byte;
    say(answer, "%d", ecb->WriteClient(ecb->ConnID, &byte, &size, HSE_IO_SYNC));
    say(answer, " %u\n", GetLastError());
    size = 5;
    say(answer, "%d", ecb->WriteClient(ecb->ConnID, NULL, &size, HSE_IO_SYNC));
    say(answer, " %u\n", GetLastError());
    say(answer, "%d", ecb->WriteClient(ecb->ConnID, &byte, NULL, HSE_IO_SYNC));
    say(answer, " %u\n", GetLastError());
    say(answer, "%d", ecb->ReadClient(ecb->ConnID, NULL, &size));
    say(answer, " %u\n", GetLastError());
    size = 0;
    say(answer, "%d\n", ecb->WriteClient(ecb->ConnID, NULL, &size, HSE_IO_SYNC));
    size = 1;
    say(answer, "%d", ecb->WriteClient((HCONN)((uintptr_t)ecb->ConnID + (1ull << 32)), &byte, &size, HSE_IO_SYNC));
    say(answer, " %u\n", GetLastError());
    say(answer, "%d", ecb->WriteClient(NULL, &byte, &size, HSE_IO_SYNC));
    say(answer, " %u\n", GetLastError());
    say(answer, "%d", ecb->ServerSupportFunction((HCONN)~0ull, HSE_REQ_DONE_WITH_SESSION, NULL, NULL, NULL));
    say(answer, " %u\n", GetLastError());
}

static void fields(Answer *answer)
{
    EXTENSION_CONTROL_BLOCK *ecb = answer->ecb;
    say(answer, "%u %x %u %s|%s|%s|%s|%u|%u|%.*s|%s\n", ecb->cbSize, ecb->dwVersion, ecb->dwHttpStatusCode,
        ecb->lpszMethod, ecb->lpszQueryString, ecb->lpszPathInfo, ecb->lpszPathTranslated[0] ? "path" : "",
        ecb->cbTotalBytes, ecb->cbAvailable, (int)ecb->cbAvailable, (char *)ecb->lpbData, ecb->lpszContentType);
}

BOOL GetExtensionVersion(HSE_VERSION_INFO *version)
{
    version->dwExtensionVersion = HSE_VERSION_MAJOR << 16 | HSE_VERSION_MINOR;
    strcpy(version->lpszExtensionDesc, "Functions for tests");
    return !getenv("FUNCTIONS_REFUSE");
}

#define IS(name) (!strncmp(ecb->lpszQueryString, name "&", sizeof name))

DWORD HttpExtensionProc(EXTENSION_CONTROL_BLOCK *ecb)
{
    static Answer answers[64];
    static unsigned next;
    Answer *answer = &answers[__atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % 64];
    DWORD result = HSE_STATUS_ERROR;
    memset(answer, 0, sizeof *answer);
    answer->ecb = ecb;
    if (IS("questions")) {
        questions(answer);
        result = send_all(answer);
    } else if (IS("variables")) {
        variables(answer);
        result = send_all(answer);
    } else if (IS("misuse")) {
        misuse(answer);
        result = send_all(answer);
    } else if (IS("fields")) {
        fields(answer);
        result = send_all(answer);
    } else if (IS("redirect")) {
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_SEND_URL_REDIRECT_RESP, "/elsewhere", NULL, NULL);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("header")) {
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_SEND_RESPONSE_HEADER, "202 Accepted", NULL,
            (DWORD *)"X-One: 1\r\nContent-Length: 4\r\n\r\nbody");
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("raw")) {
        char text[] = "HTTP/1.1 203 Mine\r\nContent-Length: 4\r\n\r\nmine";
        DWORD size = sizeof text - 1;
        ecb->WriteClient(ecb->ConnID, text, &size, HSE_IO_SYNC);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("customerror")) {
        HSE_CUSTOM_ERROR_INFO info = {"404 Not Found", 3, FALSE};
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_SEND_CUSTOM_ERROR, &info, NULL, NULL);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("vector")) {
        HSE_VECTOR_ELEMENT elements[2] = {{0, "_he", 1, 2}, {0, "llo", 0, 3}};
        HSE_RESPONSE_VECTOR vector = {
            HSE_IO_SYNC | HSE_IO_SEND_HEADERS, "200 OK", "Content-Length: 5\r\n\r\n", 2, elements};
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_VECTOR_SEND, &vector, NULL, NULL);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("exec")) {
        HSE_EXEC_URL_INFO info = {0};
        info.pszUrl = "/files/page.txt";
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_IO_COMPLETION, (void *)exec_done, NULL, NULL);
        if (!ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_EXEC_URL, &info, NULL, NULL))
            return HSE_STATUS_ERROR;
        return HSE_STATUS_PENDING;
    } else if (IS("sendurl")) {
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_SEND_URL, "/files/page.txt", NULL, NULL);
        result = HSE_STATUS_SUCCESS_AND_KEEP_CONN;
    } else if (IS("unhealthy")) {
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_REPORT_UNHEALTHY, "tired", NULL, NULL);
        say(answer, "said\n");
        result = send_all(answer);
    } else if (IS("abortive")) {
        ecb->ServerSupportFunction(ecb->ConnID, HSE_REQ_ABORTIVE_CLOSE, NULL, NULL, NULL);
        say(answer, "reset\n");
        result = send_all(answer);
    }
    return result;
}
