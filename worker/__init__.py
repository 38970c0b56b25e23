"""TensorRT behind Kafka.

The flow, and the file of each step:

    kafka/consumer.py        records in; the ledger of their partition opens an entry for each
    codec/decode.py          msgpack -> Request: validated before it can meet its neighbours
    batching/micro_batcher   requests of one shape gathered, row by row, into a lane's host memory
    gpu/ or cpu/             the lane runs: host memory -> device -> execute -> host memory
    batching/split.py        outputs cut into one answer per request
    codec/encode.py          answer -> msgpack, headers carried over
    kafka/producer.py        published in the partition's order
    kafka/ledger.py          the broker acknowledged: the entry closes
    kafka/consumer.py        offsets committed, never ahead of an open entry

pipeline.py is the loop around these steps, protocols.py what it asks of its parts, assemble.py joins them, cli.py
starts it. All of that is one process; with engine.intake_processes it runs several times, and the lanes of all are
seats in memory that intake/ shares with the process of the engine. What producers import is client.
"""

__version__ = "0.1.0"
