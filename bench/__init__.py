"""Measurements on real Kafka: the worker beside the bound and beside what one would run in its place.

throughput.py   a command: records a second and processor time a record, of all contestants in turns
latency.py      a command: from the scheduled sending to the receipt, at given rates
scaling.py      a command: the same cost with many partitions and a deep lag?
soak.py         a command: the same memory, threads and files after a long time? (growth.py)
page.py         a command: docs/performance.md and its plots (plots.py), from results/

scenario.py     what is measured: model, record size and count, rows, partitions; models.py writes the models
requests.py     the requests of a scenario, in Kafka, and the right answers
contestants.py  who is measured, each a process of its own: loops/, the worker, quiet_worker.py, and peers.py
ideal.py        what the hardware could do without Kafka
rounds.py       contestants in turns over filled topics, within a time
one_round.py    one contestant, once, from a new consumer group to a checked output topic
answers.py      the output topic read back: missing, duplicates, wrong answers, broker timestamps
traffic.py      requests by the clock, and when their answers come
cpu_samples.py  processor time of a process over time
report.py       medians, as a table and for the JSON; machine.py tells where; command.py is what the commands share
"""
