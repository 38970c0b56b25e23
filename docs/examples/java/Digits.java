// Asks which digit an 8x8 image shows: java -cp 'jars/*' Digits.java localhost:9092
// The jars: org.apache.kafka:kafka-clients with what it needs, and org.msgpack:msgpack-core.

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.msgpack.core.MessageBufferPacker;
import org.msgpack.core.MessagePack;
import org.msgpack.value.Value;

public class Digits {
    static final String IMAGE = "03fg800009gbf2000ba4g2000246g100000ad000002ed00003ggggd103gc8cb1"; // gray, 0 to g

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> kafka = Map.of("bootstrap.servers", arguments[0]);
        try (var results = new KafkaConsumer<>(kafka, new ByteArrayDeserializer(), new ByteArrayDeserializer());
                var producer = new KafkaProducer<>(kafka, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<TopicPartition> partitions = results.partitionsFor("digits.results").stream()
                    .map(each -> new TopicPartition(each.topic(), each.partition())).toList();
            results.assign(partitions); // no consumer group: nobody else reads for us
            results.seekToEnd(partitions);
            partitions.forEach(results::position); // finds the ends now, before the request leaves

            String id = UUID.randomUUID().toString();
            producer.send(new ProducerRecord<>("digits.requests", request(id))).get();

            long giveUp = System.nanoTime() + Duration.ofSeconds(30).toNanos();
            while (System.nanoTime() < giveUp) {
                for (ConsumerRecord<byte[], byte[]> record : results.poll(Duration.ofMillis(100))) {
                    Map<String, Value> answer = map(MessagePack.newDefaultUnpacker(record.value()).unpackValue());
                    if (answer.get("id").asStringValue().asString().equals(id)) {
                        System.out.println(label(answer));
                        return;
                    }
                }
            }
            throw new IllegalStateException("no answer in 30 s");
        }
    }

    static byte[] request(String id) throws IOException {
        ByteBuffer data = ByteBuffer.allocate(64 * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        IMAGE.chars().forEach(gray -> data.putFloat(Character.digit(gray, 17)));
        try (MessageBufferPacker packer = MessagePack.newDefaultBufferPacker()) {
            packer.packMapHeader(2);
            packer.packString("id").packString(id);
            packer.packString("inputs").packArrayHeader(1).packMapHeader(4);
            packer.packString("name").packString("image");
            packer.packString("datatype").packString("FP32");
            packer.packString("shape").packArrayHeader(2).packInt(1).packInt(64);
            packer.packString("data").packBinaryHeader(data.capacity()).writePayload(data.array());
            return packer.toByteArray();
        }
    }

    static long label(Map<String, Value> answer) {
        if (answer.containsKey("error")) {
            throw new IllegalStateException(answer.get("error").toString()); // its code and its message
        }
        for (Value each : answer.get("outputs").asArrayValue()) {
            Map<String, Value> output = map(each);
            if (output.get("name").asStringValue().asString().equals("label")) {
                return output.get("data").asBinaryValue().asByteBuffer().order(ByteOrder.LITTLE_ENDIAN).getLong();
            }
        }
        throw new IllegalStateException("no label");
    }

    static Map<String, Value> map(Value value) {
        return value.asMapValue().entrySet().stream().collect(Collectors.toMap(
                entry -> entry.getKey().asStringValue().asString(), Map.Entry::getValue));
    }
}
