"""Measurements: calls next to a raw echo of the same run, and what a machine's resolver and agent bear.

cli              the commands                cases, rpcss_cases     what is measured, and the bars of it
rounds           alternating rounds          process, talk          the processes that a round starts
servers, clients, pings, raw, peers          what runs inside them
alone            one process by itself       fleet, fleet_parts     processes of a whole machine
report           tables and JSON
"""
