"""Measurements on real Kafka: the worker beside the bound and beside what one would write by hand.

throughput.py   the command: fill the input topic, run the rounds interleaved, print and keep the medians
scenario.py     what is measured: record size and count, partitions, model
contestants.py  who is measured, each a process of its own: loops/ and the worker
one_round.py    one contestant, once, from a new consumer group to a checked output topic
cpu_samples.py  processor time of a process over time
answers.py      the output topic read back: missing, duplicates, wrong answers, broker timestamps
report.py       table and JSON; machine.py tells where it was measured
"""
