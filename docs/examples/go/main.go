// Asks which digit an 8x8 image shows: go run . localhost:9092
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/vmihailenco/msgpack/v5"
)

const image = "03fg800009gbf2000ba4g2000246g100000ad000002ed00003ggggd103gc8cb1" // gray values, 0 to g

type tensor struct {
	Name     string `msgpack:"name"`
	Datatype string `msgpack:"datatype"`
	Shape    []int  `msgpack:"shape"`
	Data     []byte `msgpack:"data"`
}

type request struct {
	ID     string   `msgpack:"id"`
	Inputs []tensor `msgpack:"inputs"`
}

type answer struct {
	ID      string   `msgpack:"id"`
	Outputs []tensor `msgpack:"outputs"`
	Error   *struct {
		Code    string `msgpack:"code"`
		Message string `msgpack:"message"`
	} `msgpack:"error"`
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Args[1]),
		kgo.ConsumeTopics("digits.results"),
		// An answer has its request's timestamp, so it is not before now. No consumer group: nobody else reads for us.
		kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(time.Now().UnixMilli())),
	)
	check(err)
	defer client.Close()

	id := rand.Text()
	var data []byte
	for _, gray := range image {
		level := strings.IndexRune("0123456789abcdefg", gray)
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(level)))
	}
	value, err := msgpack.Marshal(request{id, []tensor{{"image", "FP32", []int{1, 64}, data}}})
	check(err)
	check(client.ProduceSync(ctx, &kgo.Record{Topic: "digits.requests", Value: value}).FirstErr())

	for {
		fetches := client.PollFetches(ctx)
		check(fetches.Err())
		for _, record := range fetches.Records() {
			var got answer
			check(msgpack.Unmarshal(record.Value, &got))
			if got.ID != id {
				continue // somebody else's
			}
			if got.Error != nil {
				log.Fatalf("%s: %s", got.Error.Code, got.Error.Message)
			}
			for _, output := range got.Outputs {
				if output.Name == "label" {
					fmt.Println(int64(binary.LittleEndian.Uint64(output.Data)))
				}
			}
			return
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
