package main

import (
	"bufio"
	crypto "crypto/rand"
	"encoding/binary"
	"fmt"
	"math/rand"
	"time"
)

const (
	service = "/registry.v1.RegistryService/"
	sizeMin = 16 // so that no content is ever the same as the one before it
)

// work is what one caller does again and again, to a workflow of its own.
type work struct {
	method  string
	request func(at place) ([]byte, error)
	place   func(reply []byte) (place, error) // of the reply to it
	step    uint64                            // by how much the generation rises each time, at least

	readMethod string
	readReply  func(reply []byte) (place, error)
	absent     string // the reason that means that there is nothing yet
	workflow   string
}

func newWork(mode string, caller, size int, seed int64) (work, error) {
	pointer := work{
		readMethod: service + "GetPointer", readReply: pointerPlace, workflow: fmt.Sprintf("load/w%06d", caller+1),
	}
	switch mode {
	case "switch":
		return switching(pointer), nil
	case "read":
		return reading(pointer), nil
	case "publish":
		if size < sizeMin {
			return work{}, fmt.Errorf("-size %d: a published version needs at least %d bytes", size, sizeMin)
		}
		return publishing(fmt.Sprintf("load/p%06d", caller+1), size, seed+int64(caller)), nil
	}
	return work{}, fmt.Errorf("no mode %q: switch, read or publish", mode)
}

func switching(made work) work {
	random := bufio.NewReader(crypto.Reader)
	made.method, made.place, made.step, made.absent = service+"Switch", pointerPlace, 1, "POINTER_NOT_FOUND"
	made.request = func(at place) ([]byte, error) {
		id, err := requestID(time.Now(), random)
		return switchRequest(id, made.workflow, at), err
	}
	return made
}

func reading(made work) work {
	made.method, made.place = made.readMethod, made.readReply
	request := getRequest(made.workflow)
	made.request = func(place) ([]byte, error) { return request, nil }
	return made
}

func publishing(workflow string, size int, seed int64) work {
	random, noise := bufio.NewReader(crypto.Reader), rand.New(rand.NewSource(seed))
	content := make([]byte, size+8)
	return work{
		method: service + "Publish", place: versionPlace, step: 1,
		readMethod: service + "GetVersion", readReply: versionPlace, absent: "WORKFLOW_NOT_FOUND", workflow: workflow,
		request: func(place) ([]byte, error) {
			for i := 0; i < size; i += 8 { // crypto/rand would cost ten times as much of the cores that are measured
				binary.LittleEndian.PutUint64(content[i:], noise.Uint64())
			}
			id, err := requestID(time.Now(), random)
			return publishRequest(id, workflow, content[:size]), err
		},
	}
}

func randomSeed() (int64, error) {
	var seed [8]byte
	_, err := crypto.Read(seed[:])
	return int64(binary.LittleEndian.Uint64(seed[:])), err
}
