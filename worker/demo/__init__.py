"""The whole system in one process, on real input: `trt-worker demo`.

showcase   the order of things: broker, topics, worker, traffic, summary
stage      the broker and the topics: embedded, or borrowed from the user's Kafka
resident   the worker itself, on a thread of this process
digits     the images, and what the model must answer to each
traffic    publishes images, reads answers
tally      which answers came, how often, how fast, and whether they are right
view       what is seen meanwhile; summary: what is said at the end
train      how digits.onnx and digits.npz were made
"""
