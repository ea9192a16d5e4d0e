package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// rawCodec hands messages over as the bytes they are: requests are []byte, replies *[]byte.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message interface{}) ([]byte, error) { return message.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, message interface{}) error {
	*message.(*[]byte) = data
	return nil
}

// place is where a workflow stands: what its pointer names and the pointer's generation, or (publish) its newest
// version under both names. Zero: never switched, no version.
type place struct {
	version    uint64
	generation uint64
}

func appendText(message []byte, field protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(message, field, protowire.BytesType), text)
}

func appendBytes(message []byte, field protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(message, field, protowire.BytesType), data)
}

// getRequest is a GetPointerRequest (pointer active) and a GetVersionRequest (the newest): both linearizable.
func getRequest(workflow string) []byte { return appendText(nil, 1, workflow) }

func switchRequest(requestID, workflow string, at place) []byte {
	move := appendText(nil, 1, workflow)
	move = appendText(move, 2, fmt.Sprint(otherOf(at.version)))
	move = protowire.AppendVarint(protowire.AppendTag(move, 4, protowire.VarintType), at.generation)
	return appendText(appendBytes(appendText(nil, 1, requestID), 2, move), 3, "bench")
}

// otherOf alternates between versions 1 and 2.
func otherOf(version uint64) uint64 {
	if version == 1 {
		return 2
	}
	return 1
}

func publishRequest(requestID, workflow string, content []byte) []byte {
	message := make([]byte, 0, len(content)+128)
	message = appendText(appendText(message, 1, requestID), 2, workflow)
	return appendText(appendBytes(message, 3, content), 4, "binary")
}

// pointerPlace reads a GetPointerResponse or a SwitchResponse of one move.
func pointerPlace(reply []byte) (place, error) {
	pointer, err := fieldBytes(reply, 2)
	if err != nil {
		return place{}, err
	}
	version, err := fieldNumber(pointer, 3)
	if err != nil {
		return place{}, err
	}
	generation, err := fieldNumber(pointer, 6)
	return place{version, generation}, err
}

// versionPlace reads a GetVersionResponse or a PublishResponse.
func versionPlace(reply []byte) (place, error) {
	version, err := fieldBytes(reply, 2)
	if err != nil {
		return place{}, err
	}
	number, err := fieldNumber(version, 2)
	return place{number, number}, err
}

// field returns the undecoded value of a field, nil where it is absent.
func field(message []byte, wanted protowire.Number) (protowire.Type, []byte, error) {
	for len(message) > 0 {
		number, kind, tag := protowire.ConsumeTag(message)
		if tag < 0 {
			return 0, nil, protowire.ParseError(tag)
		}
		size := protowire.ConsumeFieldValue(number, kind, message[tag:])
		if size < 0 {
			return 0, nil, protowire.ParseError(size)
		}
		if number == wanted {
			return kind, message[tag : tag+size], nil
		}
		message = message[tag+size:]
	}
	return 0, nil, nil
}

func fieldBytes(message []byte, wanted protowire.Number) ([]byte, error) {
	kind, value, err := field(message, wanted)
	if err != nil {
		return nil, err
	}
	if value == nil || kind != protowire.BytesType {
		return nil, fmt.Errorf("no message in field %d", wanted)
	}
	data, _ := protowire.ConsumeBytes(value)
	return data, nil
}

func fieldNumber(message []byte, wanted protowire.Number) (uint64, error) {
	kind, value, err := field(message, wanted)
	if err != nil {
		return 0, err
	}
	if value == nil || kind != protowire.VarintType {
		return 0, fmt.Errorf("no number in field %d", wanted)
	}
	number, _ := protowire.ConsumeVarint(value)
	return number, nil
}

// reasonOf is the reason in the google.rpc.ErrorInfo that members send, else gRPC's own word.
func reasonOf(err error) string {
	state := status.Convert(err)
	for _, detail := range state.Proto().GetDetails() {
		if reason, err := fieldBytes(detail.GetValue(), 1); err == nil {
			return string(reason)
		}
	}
	return state.Code().String()
}

// requestID is a UUIDv7 in lower case, issued at `now`.
func requestID(now time.Time, random io.Reader) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[6:]); err != nil {
		return "", err
	}
	milliseconds := uint64(now.UnixNano()) / uint64(time.Millisecond)
	for i := 0; i < 6; i++ {
		id[i] = byte(milliseconds >> (40 - 8*i))
	}
	id[6] = 0x70 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	text := hex.EncodeToString(id[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:], nil
}
