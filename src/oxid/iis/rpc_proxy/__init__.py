"""The RPC proxy: an asynchronous ISAPI extension that carries RPC over HTTP to the servers behind it. [MS-RPCH]"""
