"""What an operator can do about what the cluster refuses."""

from __future__ import annotations

from confluent_kafka import KafkaError

from worker.sections import KafkaSettings

LOGIN = "check the sasl keys of kafka.client"
CERTIFICATE = "check ssl.ca.location in kafka.client, and that the broker's certificate is for this host name"
REMEDIES = {
    KafkaError._AUTHENTICATION: LOGIN,
    KafkaError.SASL_AUTHENTICATION_FAILED: LOGIN,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: LOGIN,
    KafkaError._SSL: CERTIFICATE,
    KafkaError._MSG_TIMED_OUT: "see to its brokers; message.timeout.ms in kafka.producer says how long to wait",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant IdempotentWrite on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "grant Write on this transactional id",
}
CERTIFICATE_ALERTS = ("certificate required", "bad certificate")  # of a broker that asks for ours; which one varies
OF_ANOTHER_KIND = frozenset((KafkaError.GROUP_ID_NOT_FOUND, KafkaError.INCONSISTENT_GROUP_PROTOCOL))


def with_remedy(error: KafkaError, kafka: KafkaSettings, written: str | None = None) -> str:
    """The error in words, and the missing right or the setting to look at.

    Args:
        error: what a client reported.
        kafka: names the group and the topics.
        written: the topic that a message was for; without it, the error is one of a reader.
    """
    code = error.code()
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        remedy = (
            f"grant Write on topic {written}" if written else f"grant Read on topic {', '.join(kafka.input_topics)}"
        )
    elif code == KafkaError.GROUP_AUTHORIZATION_FAILED:
        remedy = f"grant Read on group {kafka.group_id}"
    elif code in OF_ANOTHER_KIND or "group id does not exist" in error.str():  # a fatal error hides its code
        remedy = f"group {kafka.group_id} may be one of another kind (consumer, share): take another kafka.group_id"
    else:
        remedy = REMEDIES.get(code, "")
    return f"{error.str()}; {remedy}" if remedy else error.str()


def of_silence(reason: str, kafka: KafkaSettings) -> str:
    """What to look at where no broker answered; `reason` is the last thing the client said about it."""
    if any(alert in reason for alert in CERTIFICATE_ALERTS):
        return "the broker wants another client certificate: check ssl.certificate.location in kafka.client"
    protocol = kafka.client.get("security.protocol", "plaintext")
    return f"check the address, that the broker is up, and that it expects security.protocol {protocol}"
