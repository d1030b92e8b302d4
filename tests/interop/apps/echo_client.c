/* A client of Echo over RPC over HTTP for Windows: SERVER PORT OPTIONS|- USER PASSWORD SCHEME LEVEL CALLS BYTES
 *
 * SCHEME is basic, ntlm or negotiate, for the proxy; LEVEL is the number of the authentication level inside.
 * It prints what it did, the status of the function that failed, or the exception of the call that failed. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <rpc.h>
#include "echo.h"

void *__RPC_USER MIDL_user_allocate(size_t size) { return malloc(size); }
void __RPC_USER MIDL_user_free(void *memory) { free(memory); }

static LONG WINAPI on_exception(EXCEPTION_POINTERS *what)
{
    printf("exception=0x%lx\n", what->ExceptionRecord->ExceptionCode);
    fflush(stdout);
    ExitProcess(3);
}

static void check(const char *name, RPC_STATUS status)
{
    if (!status)
        return;
    printf("%s=0x%lx\n", name, status);
    fflush(stdout);
    ExitProcess(2);
}

int main(int argc, char **argv)
{
    SEC_WINNT_AUTH_IDENTITY_A account = {0};
    RPC_HTTP_TRANSPORT_CREDENTIALS_A http = {0};
    RPC_SECURITY_QOS_V2_A quality = {0};
    unsigned char *text, *options, *sent, *back;
    ULONG scheme;
    int level, calls, bytes, i;

    if (argc != 10)
        return 64;
    SetUnhandledExceptionFilter(on_exception);
    options = strcmp(argv[3], "-") ? (unsigned char *)argv[3] : NULL;
    scheme = !strcmp(argv[6], "basic")  ? RPC_C_HTTP_AUTHN_SCHEME_BASIC
             : !strcmp(argv[6], "ntlm") ? RPC_C_HTTP_AUTHN_SCHEME_NTLM
                                        : RPC_C_HTTP_AUTHN_SCHEME_NEGOTIATE;
    level = atoi(argv[7]);
    calls = atoi(argv[8]);
    bytes = atoi(argv[9]);

    check("compose", RpcStringBindingComposeA(NULL, (unsigned char *)"ncacn_http", (unsigned char *)argv[1],
                                              (unsigned char *)argv[2], options, &text));
    check("binding", RpcBindingFromStringBindingA(text, &server));
    account.User = (unsigned char *)argv[4];
    account.UserLength = strlen(argv[4]);
    account.Password = (unsigned char *)argv[5];
    account.PasswordLength = strlen(argv[5]);
    account.Domain = (unsigned char *)"";
    account.Flags = SEC_WINNT_AUTH_IDENTITY_ANSI;
    http.TransportCredentials = &account;
    http.AuthenticationTarget = RPC_C_HTTP_AUTHN_TARGET_SERVER;
    http.NumberOfAuthnSchemes = 1;
    http.AuthnSchemes = &scheme;
    quality.Version = 2;
    quality.ImpersonationType = RPC_C_IMP_LEVEL_IMPERSONATE;
    quality.AdditionalSecurityInfoType = RPC_C_AUTHN_INFO_TYPE_HTTP;
    quality.u.HttpCredentials = &http;
    check("security", RpcBindingSetAuthInfoExA(server, NULL, level, RPC_C_AUTHN_WINNT, &account, 0,
                                               (RPC_SECURITY_QOS *)&quality));

    for (i = 0; i < calls; i++) {
        long sum = 0;
        AddOne(i, &sum);
        if (sum != i + 1) {
            printf("AddOne(%d)=%ld\n", i, sum);
            return 1;
        }
    }
    sent = malloc(bytes);
    back = calloc(1, bytes);
    for (i = 0; i < bytes; i++)
        sent[i] = (unsigned char)(i * 7);
    EchoData(bytes, sent, back);
    if (memcmp(sent, back, bytes)) {
        printf("EchoData: other bytes\n");
        return 1;
    }
    printf("calls=%d bytes=%d\n", calls, bytes);
    fflush(stdout);
    check("free", RpcBindingFree(&server));
    return 0;
}
