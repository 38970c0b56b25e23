"""What producers import.

    wire       numpy arrays -> a request's bytes; a result's bytes -> numpy arrays (needs numpy and msgpack)
    inference  InferenceClient: publishes requests and awaits their answers (needs confluent-kafka too)
    waiting    the requests that have no answer yet

BF16 needs ml_dtypes; without it, BF16 outputs come as their raw 16 bits (uint16), and BF16 inputs cannot be sent.
"""

from worker.client.inference import InferenceClient
from worker.client.waiting import InferenceError, NotDelivered
from worker.client.wire import Arrays, InferenceFailure, Result, decode_result, encode_request

__all__ = [
    "Arrays",
    "InferenceClient",
    "InferenceError",
    "InferenceFailure",
    "NotDelivered",
    "Result",
    "decode_result",
    "encode_request",
]
