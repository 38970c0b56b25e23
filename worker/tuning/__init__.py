"""Which settings meet a latency target on this machine: measured, chosen, confirmed, reported.

payload.py       requests for the model, encoded once
open_loop.py     arrivals by the clock, in memory, behind the pipeline's own Protocol
backends.py      the engine with so many lanes, with and without graphs
trial.py         one setting at one rate through the real pipeline -> Measurement
candidates.py    what is worth measuring
sweep.py         coarse to fine within a budget of time
choice.py        the recommendation, from measurements alone
through_kafka.py the chosen setting once more, as the whole service behind a broker (traffic.py, in its own process)
report.py        HTML, from plots.py and svg.py
"""
