"""RPC over HTTP without I/O: RTS PDUs, flow control, channels, and the machines of every role. [MS-RPCH]

rts                 the PDUs                       pdus, windows, channel      what every machine is made of
client              ClientTunnel                   proxy_table, proxy_channel, in_proxy, out_proxy
server, virtual_connection                         ports, options              what shells see of them
"""
