/*
 * oxid_isapi.h - the interface for native extensions of oxid's web server, C99 and C++11, 64-bit Linux.
 *
 * An extension is a shared object that exports GetExtensionVersion and HttpExtensionProc, and may export
 * TerminateExtension:
 *
 *     cc -shared -fPIC -o hello.so hello.c
 *
 * The layout is that of ISAPI on 64-bit Windows; DWORD is 32 bits wide here too. Handles of files are descriptors.
 * Nothing is to be linked: oxid_isapi_get_last_error() lives in the extension itself, and the server sets its value
 * on the calling thread before a function returns FALSE.
 */
#ifndef OXID_ISAPI_H
#define OXID_ISAPI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define OXID_ISAPI_ASSERT(condition, text) static_assert(condition, text)
extern "C" {
#else
#define OXID_ISAPI_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define OXID_ISAPI_EXPORT __attribute__((visibility("default")))

typedef int32_t BOOL;
typedef uint32_t DWORD;
typedef uint16_t USHORT;
typedef uint16_t OXID_WCHAR; /* UTF-16LE */
typedef void *HCONN;
typedef void *HANDLE;

#ifndef TRUE
#define TRUE 1
#define FALSE 0
#endif

/* The error of the last function that returned FALSE on this thread. */
__attribute__((weak, visibility("default"))) __thread uint32_t oxid_isapi_last_error_value;
__attribute__((weak, visibility("default"))) void oxid_isapi_set_last_error(uint32_t error);
__attribute__((weak, visibility("default"))) void oxid_isapi_set_last_error(uint32_t error)
{
    oxid_isapi_last_error_value = error;
}
__attribute__((weak, visibility("default"))) uint32_t oxid_isapi_get_last_error(void);
__attribute__((weak, visibility("default"))) uint32_t oxid_isapi_get_last_error(void)
{
    return oxid_isapi_last_error_value;
}
#ifndef GetLastError
#define GetLastError oxid_isapi_get_last_error
#endif

#define HSE_VERSION_MAJOR 6
#define HSE_VERSION_MINOR 0
#define HSE_LOG_BUFFER_LEN 80
#define HSE_MAX_EXT_DLL_NAME_LEN 256
#define HSE_MAX_PATH 260
#define HSE_UNKNOWN_LENGTH 0xFFFFFFFFu

#define HSE_STATUS_SUCCESS 1
#define HSE_STATUS_SUCCESS_AND_KEEP_CONN 2
#define HSE_STATUS_PENDING 3
#define HSE_STATUS_ERROR 4

#define HSE_TERM_ADVISORY_UNLOAD 1
#define HSE_TERM_MUST_UNLOAD 2

#define HSE_REQ_SEND_URL_REDIRECT_RESP 1
#define HSE_REQ_SEND_URL 2
#define HSE_REQ_SEND_RESPONSE_HEADER 3
#define HSE_REQ_DONE_WITH_SESSION 4
#define HSE_REQ_MAP_URL_TO_PATH 1001
#define HSE_REQ_GET_SSPI_INFO 1002
#define HSE_APPEND_LOG_PARAMETER 1003
#define HSE_REQ_IO_COMPLETION 1005
#define HSE_REQ_TRANSMIT_FILE 1006
#define HSE_REQ_REFRESH_ISAPI_ACL 1007
#define HSE_REQ_IS_KEEP_CONN 1008
#define HSE_REQ_ASYNC_READ_CLIENT 1010
#define HSE_REQ_GET_IMPERSONATION_TOKEN 1011
#define HSE_REQ_MAP_URL_TO_PATH_EX 1012
#define HSE_REQ_ABORTIVE_CLOSE 1014
#define HSE_REQ_GET_CERT_INFO_EX 1015
#define HSE_REQ_SEND_RESPONSE_HEADER_EX 1016
#define HSE_REQ_CLOSE_CONNECTION 1017
#define HSE_REQ_IS_CONNECTED 1018
#define HSE_REQ_MAP_UNICODE_URL_TO_PATH 1023
#define HSE_REQ_MAP_UNICODE_URL_TO_PATH_EX 1024
#define HSE_REQ_EXEC_UNICODE_URL 1025
#define HSE_REQ_EXEC_URL 1026
#define HSE_REQ_GET_EXEC_URL_STATUS 1027
#define HSE_REQ_SEND_CUSTOM_ERROR 1028
#define HSE_REQ_IS_IN_PROCESS 1030
#define HSE_REQ_REPORT_UNHEALTHY 1032
#define HSE_REQ_NORMALIZE_URL 1033
#define HSE_REQ_VECTOR_SEND 1037
#define HSE_REQ_GET_ANONYMOUS_TOKEN 1038
#define HSE_REQ_GET_CACHE_INVALIDATION_CALLBACK 1040
#define HSE_REQ_GET_UNICODE_ANONYMOUS_TOKEN 1041
#define HSE_REQ_GET_TRACE_INFO 1042
#define HSE_REQ_SET_FLUSH_FLAG 1043
#define HSE_REQ_GET_TRACE_INFO_EX 1044
#define HSE_REQ_RAISE_TRACE_EVENT 1045
#define HSE_REQ_GET_CONFIG_OBJECT 1046
#define HSE_REQ_GET_WORKER_PROCESS_SETTINGS 1047
#define HSE_REQ_GET_PROTOCOL_MANAGER_CUSTOM_INTERFACE_CALLBACK 1048
#define HSE_REQ_CANCEL_IO 1049
#define HSE_REQ_GET_CHANNEL_BINDING_TOKEN 1050

#define HSE_IO_SYNC 0x00000001
#define HSE_IO_ASYNC 0x00000002
#define HSE_IO_DISCONNECT_AFTER_SEND 0x00000004
#define HSE_IO_SEND_HEADERS 0x00000008
#define HSE_IO_FINAL_SEND 0x00000010
#define HSE_IO_CACHE_RESPONSE 0x00000020
#define HSE_IO_TRY_SKIP_CUSTOM_ERRORS 0x00000040
#define HSE_IO_NODELAY 0x00001000

#define HSE_EXEC_URL_NO_HEADERS 0x02
#define HSE_EXEC_URL_IGNORE_CURRENT_INTERCEPTOR 0x04
#define HSE_EXEC_URL_IGNORE_VALIDATION_AND_RANGE 0x10
#define HSE_EXEC_URL_DISABLE_CUSTOM_ERROR 0x20
#define HSE_EXEC_URL_SSI_CMD 0x40
#define HSE_EXEC_URL_HTTP_CACHE_ELIGIBLE 0x80

#define HSE_VECTOR_ELEMENT_TYPE_MEMORY_BUFFER 0
#define HSE_VECTOR_ELEMENT_TYPE_FILE_HANDLE 1

#ifndef ERROR_INVALID_HANDLE
#define ERROR_INVALID_HANDLE 6
#define ERROR_NOT_SUPPORTED 50
#define ERROR_NETNAME_DELETED 64
#define ERROR_INVALID_PARAMETER 87
#define ERROR_INSUFFICIENT_BUFFER 122
#define ERROR_OPERATION_ABORTED 995
#define ERROR_INVALID_INDEX 1413
#endif

typedef struct {
    DWORD dwExtensionVersion; /* major in the upper half, minor in the lower */
    char lpszExtensionDesc[HSE_MAX_EXT_DLL_NAME_LEN];
} HSE_VERSION_INFO;

typedef struct oxid_extension_control_block EXTENSION_CONTROL_BLOCK;

struct oxid_extension_control_block {
    DWORD cbSize;
    DWORD dwVersion;
    HCONN ConnID; /* names the request; no address */
    DWORD dwHttpStatusCode;
    char lpszLogData[HSE_LOG_BUFFER_LEN];
    char *lpszMethod;
    char *lpszQueryString;
    char *lpszPathInfo;
    char *lpszPathTranslated;
    DWORD cbTotalBytes;
    DWORD cbAvailable;
    uint8_t *lpbData;
    char *lpszContentType;
    BOOL (*GetServerVariable)(HCONN hConn, char *name, void *buffer, DWORD *size);
    BOOL (*WriteClient)(HCONN hConn, void *buffer, DWORD *size, DWORD flags);
    BOOL (*ReadClient)(HCONN hConn, void *buffer, DWORD *size);
    BOOL (*ServerSupportFunction)(HCONN hConn, DWORD request, void *buffer, DWORD *size, DWORD *type);
};

typedef void (*PFN_HSE_IO_COMPLETION)(EXTENSION_CONTROL_BLOCK *ecb, void *context, DWORD bytes, DWORD error);
typedef int32_t (*PFN_HSE_CACHE_INVALIDATION_CALLBACK)(OXID_WCHAR *url);

typedef struct {
    PFN_HSE_IO_COMPLETION pfnHseIO;
    void *pContext;
    HANDLE hFile; /* a descriptor */
    const char *pszStatusCode;
    DWORD BytesToWrite;
    DWORD Offset;
    void *pHead;
    DWORD HeadLength;
    void *pTail;
    DWORD TailLength;
    DWORD dwFlags;
} HSE_TF_INFO;

typedef struct {
    const char *pszStatus;
    const char *pszHeader;
    DWORD cchStatus; /* 0: up to the NUL */
    DWORD cchHeader;
    BOOL fKeepConn;
} HSE_SEND_HEADER_EX_INFO;

typedef struct {
    HANDLE hImpersonationToken;
    char *pszCustomUserName;
    char *pszCustomAuthType;
} HSE_EXEC_URL_USER_INFO;

typedef struct {
    DWORD cbAvailable;
    void *lpbData;
} HSE_EXEC_URL_ENTITY_INFO;

typedef struct {
    char *pszUrl;
    char *pszMethod;
    char *pszChildHeaders;
    HSE_EXEC_URL_USER_INFO *pUserInfo;
    HSE_EXEC_URL_ENTITY_INFO *pEntity;
    DWORD dwExecUrlFlags;
} HSE_EXEC_URL_INFO;

typedef struct {
    OXID_WCHAR *pszUrl;
    char *pszMethod;
    char *pszChildHeaders;
    HSE_EXEC_URL_USER_INFO *pUserInfo;
    HSE_EXEC_URL_ENTITY_INFO *pEntity;
    DWORD dwExecUrlFlags;
} HSE_EXEC_UNICODE_URL_INFO;

typedef struct {
    USHORT uHttpStatusCode;
    USHORT uHttpSubStatus;
    DWORD dwWin32Error;
} HSE_EXEC_URL_STATUS;

typedef struct {
    char *pszStatus;
    USHORT uHttpSubError;
    BOOL fAsync;
} HSE_CUSTOM_ERROR_INFO;

typedef struct {
    DWORD ElementType;
    void *pvContext;
    uint64_t cbOffset;
    uint64_t cbSize;
} HSE_VECTOR_ELEMENT;

typedef struct {
    DWORD dwFlags;
    char *pszStatus;
    char *pszHeaders;
    DWORD nElementCount;
    HSE_VECTOR_ELEMENT *lpElementArray;
} HSE_RESPONSE_VECTOR;

typedef struct {
    char lpszPath[HSE_MAX_PATH];
    DWORD dwFlags;
    DWORD cchMatchingPath;
    DWORD cchMatchingURL;
    DWORD dwReserved1;
    DWORD dwReserved2;
} HSE_URL_MAPEX_INFO;

typedef struct {
    OXID_WCHAR lpszPath[HSE_MAX_PATH];
    DWORD dwFlags;
    DWORD cchMatchingPath;
    DWORD cchMatchingURL;
} HSE_UNICODE_URL_MAPEX_INFO;

typedef struct {
    BOOL fTraceRequest;
    uint8_t TraceContextId[16];
    DWORD dwReserved1;
    DWORD dwReserved2;
} HSE_TRACE_INFO;

typedef struct {
    DWORD dwCertEncodingType;
    uint8_t *pbCertEncoded;
    DWORD cbCertEncoded;
    void *pCertInfo;
    void *hCertStore;
    DWORD cbAllocated; /* bytes that pbCertEncoded has room for */
    DWORD dwCertificateFlags;
} CERT_CONTEXT_EX;

#define OXID_AT(type, field, offset) \
    OXID_ISAPI_ASSERT(offsetof(type, field) == (offset), #type "." #field " has moved")
#define OXID_SIZE(type, size) OXID_ISAPI_ASSERT(sizeof(type) == (size), #type " has another size")

OXID_ISAPI_ASSERT(sizeof(void *) == 8, "64-bit only");
OXID_SIZE(EXTENSION_CONTROL_BLOCK, 192);
OXID_AT(EXTENSION_CONTROL_BLOCK, cbSize, 0);
OXID_AT(EXTENSION_CONTROL_BLOCK, dwVersion, 4);
OXID_AT(EXTENSION_CONTROL_BLOCK, ConnID, 8);
OXID_AT(EXTENSION_CONTROL_BLOCK, dwHttpStatusCode, 16);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpszLogData, 20);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpszMethod, 104);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpszQueryString, 112);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpszPathInfo, 120);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpszPathTranslated, 128);
OXID_AT(EXTENSION_CONTROL_BLOCK, cbTotalBytes, 136);
OXID_AT(EXTENSION_CONTROL_BLOCK, cbAvailable, 140);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpbData, 144);
OXID_AT(EXTENSION_CONTROL_BLOCK, lpszContentType, 152);
OXID_AT(EXTENSION_CONTROL_BLOCK, GetServerVariable, 160);
OXID_AT(EXTENSION_CONTROL_BLOCK, WriteClient, 168);
OXID_AT(EXTENSION_CONTROL_BLOCK, ReadClient, 176);
OXID_AT(EXTENSION_CONTROL_BLOCK, ServerSupportFunction, 184);
OXID_SIZE(HSE_VERSION_INFO, 260);
OXID_SIZE(HSE_TF_INFO, 72);
OXID_AT(HSE_TF_INFO, pContext, 8);
OXID_AT(HSE_TF_INFO, hFile, 16);
OXID_AT(HSE_TF_INFO, pszStatusCode, 24);
OXID_AT(HSE_TF_INFO, BytesToWrite, 32);
OXID_AT(HSE_TF_INFO, Offset, 36);
OXID_AT(HSE_TF_INFO, pHead, 40);
OXID_AT(HSE_TF_INFO, HeadLength, 48);
OXID_AT(HSE_TF_INFO, pTail, 56);
OXID_AT(HSE_TF_INFO, TailLength, 64);
OXID_AT(HSE_TF_INFO, dwFlags, 68);
OXID_SIZE(HSE_SEND_HEADER_EX_INFO, 32);
OXID_AT(HSE_SEND_HEADER_EX_INFO, pszHeader, 8);
OXID_AT(HSE_SEND_HEADER_EX_INFO, cchStatus, 16);
OXID_AT(HSE_SEND_HEADER_EX_INFO, cchHeader, 20);
OXID_AT(HSE_SEND_HEADER_EX_INFO, fKeepConn, 24);
OXID_SIZE(HSE_EXEC_URL_INFO, 48);
OXID_AT(HSE_EXEC_URL_INFO, pszMethod, 8);
OXID_AT(HSE_EXEC_URL_INFO, pszChildHeaders, 16);
OXID_AT(HSE_EXEC_URL_INFO, pUserInfo, 24);
OXID_AT(HSE_EXEC_URL_INFO, pEntity, 32);
OXID_AT(HSE_EXEC_URL_INFO, dwExecUrlFlags, 40);
OXID_SIZE(HSE_EXEC_UNICODE_URL_INFO, 48);
OXID_SIZE(HSE_EXEC_URL_USER_INFO, 24);
OXID_SIZE(HSE_EXEC_URL_ENTITY_INFO, 16);
OXID_SIZE(HSE_EXEC_URL_STATUS, 8);
OXID_SIZE(HSE_CUSTOM_ERROR_INFO, 16);
OXID_SIZE(HSE_VECTOR_ELEMENT, 32);
OXID_AT(HSE_VECTOR_ELEMENT, pvContext, 8);
OXID_AT(HSE_VECTOR_ELEMENT, cbOffset, 16);
OXID_AT(HSE_VECTOR_ELEMENT, cbSize, 24);
OXID_SIZE(HSE_RESPONSE_VECTOR, 40);
OXID_AT(HSE_RESPONSE_VECTOR, pszStatus, 8);
OXID_AT(HSE_RESPONSE_VECTOR, pszHeaders, 16);
OXID_AT(HSE_RESPONSE_VECTOR, nElementCount, 24);
OXID_AT(HSE_RESPONSE_VECTOR, lpElementArray, 32);
OXID_SIZE(HSE_URL_MAPEX_INFO, 280);
OXID_AT(HSE_URL_MAPEX_INFO, dwFlags, 260);
OXID_AT(HSE_URL_MAPEX_INFO, cchMatchingPath, 264);
OXID_AT(HSE_URL_MAPEX_INFO, cchMatchingURL, 268);
OXID_SIZE(HSE_UNICODE_URL_MAPEX_INFO, 532);
OXID_SIZE(HSE_TRACE_INFO, 28);
OXID_SIZE(CERT_CONTEXT_EX, 48);

/* What an extension exports. */
OXID_ISAPI_EXPORT BOOL GetExtensionVersion(HSE_VERSION_INFO *version);
OXID_ISAPI_EXPORT DWORD HttpExtensionProc(EXTENSION_CONTROL_BLOCK *ecb);
OXID_ISAPI_EXPORT BOOL TerminateExtension(DWORD flags);

#ifdef __cplusplus
}
#endif
#endif
