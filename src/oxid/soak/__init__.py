"""Long scenarios with real processes: `oxid soak rpcss`, the lifetimes of Q292041 and Q224837 for hours.

run, settings               one soak from its start to its verdict
stage, leash                the host, its agents and servers
crew, nursery               the client processes
life, exchange              what one client does
cycles, resident, server    the static endpoint, again and again
faults, relay               what happens to all of them
checks, judge, journal      what must hold, and whether it did
watch, rest, processes      what is looked at meanwhile, and at the end
report                      tables and JSON
"""
