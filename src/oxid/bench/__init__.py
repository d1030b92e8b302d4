"""Measurements: how fast calls are, next to a raw echo of the same run.

cli        the commands            cases     what is measured, and the bars of it
rounds     alternating rounds      process   the processes that a round starts
servers, clients, raw, peers       what runs inside them
report     tables and JSON         profile   where the time of one case goes
"""
