"""What one writes first: poll a record, run the model, produce the answer; offsets commit themselves."""

from __future__ import annotations

import msgpack
from confluent_kafka import Consumer, Producer

from bench.loops import job as command_line
from bench.loops.model import Model


def main() -> None:
    job = command_line.from_command_line()
    model = Model(job.model)
    where = {"bootstrap.servers": job.bootstrap_servers}
    consumer = Consumer({**where, "group.id": job.group_id, "auto.offset.reset": "earliest"})
    producer = Producer({**where, "partitioner": "murmur2_random"})
    consumer.subscribe([job.input_topic])
    while job.is_running:
        message = consumer.poll(0.1)
        if message is None or message.error() is not None:
            continue
        request = msgpack.unpackb(message.value())
        value = model.result(request, model.run(model.arrays(request)))
        while True:
            try:
                producer.produce(job.output_topic, value, message.key())
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    producer.flush()
    consumer.close()


if __name__ == "__main__":
    main()
