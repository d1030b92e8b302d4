"""asyncio: sockets, clients, servers, pools, deadlines."""
