// Load generator: independent callers, each with one call at a time, none coalesced. See README.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

const (
	dialTimeout = 5 * time.Second
	callTimeout = 10 * time.Second
	pause       = 10 * time.Millisecond // after a failure: a dead member is not asked a million times
)

type options struct {
	mode        string
	addresses   []string
	callers     int
	connections int
	seconds     float64
	warm        float64
	size        int
}

func main() {
	if err := run(parse()); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	addresses := flag.String("address", "", "HOST:PORT of members, with commas; connection i goes to i modulo their number")
	flag.StringVar(&o.mode, "mode", "switch", "switch, read or publish")
	flag.IntVar(&o.callers, "c", 1, "callers, each with a workflow of its own")
	flag.IntVar(&o.connections, "conns", 1, "connections that the callers share")
	flag.Float64Var(&o.seconds, "d", 5, "seconds that count")
	flag.Float64Var(&o.warm, "warm", 1, "seconds before them that do not")
	flag.IntVar(&o.size, "size", 65536, "bytes of a published version")
	flag.Parse()
	o.addresses = strings.Split(*addresses, ",")
	if *addresses == "" || flag.NArg() > 0 || o.callers < 1 || o.connections < 1 || o.seconds <= 0 || o.warm < 0 || o.size < 0 {
		flag.Usage()
		os.Exit(1)
	}
	return o
}

func run(o options) error {
	seed, err := randomSeed()
	if err != nil {
		return err
	}
	connections, err := dial(o)
	if err != nil {
		return err
	}
	callers := make([]*caller, o.callers)
	for i := range callers {
		doing, err := newWork(o.mode, i, o.size, seed)
		if err != nil {
			return err
		}
		callers[i] = &caller{work: doing, connection: connections[i%len(connections)], codes: map[string]int{}}
	}
	if err := each(callers, (*caller).begin); err != nil {
		return err
	}
	began := time.Now()
	counted := window{from: began.Add(seconds(o.warm))}
	counted.to = counted.from.Add(seconds(o.seconds))
	used := make(chan float64, 1)
	go func() { used <- cpuDuring(counted) }()
	if err := each(callers, func(c *caller) error { return c.repeat(counted) }); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report(o, callers, <-used))
}

func dial(o options) ([]*grpc.ClientConn, error) {
	made := make([]*grpc.ClientConn, o.connections)
	for i := range made {
		address := o.addresses[i%len(o.addresses)]
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		connection, err := grpc.DialContext(
			ctx, address, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})),
		)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("connect to %q: %w", address, err)
		}
		made[i] = connection
	}
	return made, nil
}

// each runs all callers at once and returns the first error after the last one has ended.
func each(callers []*caller, do func(*caller) error) error {
	var wait sync.WaitGroup
	failed := make(chan error, len(callers))
	for _, one := range callers {
		wait.Add(1)
		go func(one *caller) {
			defer wait.Done()
			if err := do(one); err != nil {
				failed <- fmt.Errorf("%s: %w", one.work.workflow, err)
			}
		}(one)
	}
	wait.Wait()
	close(failed)
	return <-failed
}

// window is the time that counts: what completes in it.
type window struct{ from, to time.Time }

func (w window) holds(moment time.Time) bool { return !moment.Before(w.from) && moment.Before(w.to) }

func seconds(count float64) time.Duration { return time.Duration(count * float64(time.Second)) }

// cpuDuring is this process's CPU time in a window that is still to come, in seconds.
func cpuDuring(w window) float64 {
	time.Sleep(time.Until(w.from))
	before := cpu()
	time.Sleep(time.Until(w.to))
	return cpu() - before
}

func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

type caller struct {
	work       work
	connection *grpc.ClientConn

	before place
	at     place
	known  bool // where the workflow stands; not after a failure
	tookMs []float64
	warmed int // done outside of the window
	codes  map[string]int
}

func (c *caller) invoke(method string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var reply []byte
	err := c.connection.Invoke(ctx, method, request, &reply)
	return reply, err
}

// begin reads where the workflow stands.
func (c *caller) begin() error {
	reason, err := c.readBack()
	if err == nil && reason != "" {
		err = fmt.Errorf("cannot be read: %s", reason)
	}
	c.before = c.at
	return err
}

// readBack returns the reason of a failure; the error is about a reply that cannot be understood.
func (c *caller) readBack() (string, error) {
	reply, failure := c.invoke(c.work.readMethod, getRequest(c.work.workflow))
	if failure != nil {
		reason := reasonOf(failure)
		if c.work.absent == "" || reason != c.work.absent {
			return reason, nil
		}
		c.at, c.known = place{}, true
		return "", nil
	}
	at, err := c.work.readReply(reply)
	c.at, c.known = at, err == nil
	return "", err
}

// repeat does the work until the window is over. After a failure it reads where the workflow stands and goes on.
func (c *caller) repeat(counted window) error {
	for time.Now().Before(counted.to) || !c.known {
		if !c.known {
			reason, err := c.readBack()
			if err != nil {
				return err
			}
			if reason != "" {
				if c.fail(reason); !time.Now().Before(counted.to) {
					return fmt.Errorf("cannot be read at the end: %s", reason)
				}
			}
			continue
		}
		if err := c.once(counted); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) once(counted window) error {
	request, err := c.work.request(c.at)
	if err != nil {
		return err
	}
	began := time.Now()
	reply, failure := c.invoke(c.work.method, request)
	ended := time.Now()
	if failure != nil {
		c.fail(reasonOf(failure))
		return nil
	}
	at, err := c.work.place(reply)
	if err != nil {
		return err
	}
	if at.generation < c.at.generation+c.work.step {
		return fmt.Errorf("%s answered %d, and the call before it %d", c.work.method, at.generation, c.at.generation)
	}
	c.at = at
	if counted.holds(ended) {
		c.tookMs = append(c.tookMs, ended.Sub(began).Seconds()*1000)
	} else {
		c.warmed++
	}
	return nil
}

func (c *caller) fail(reason string) {
	c.codes[reason]++
	c.known = false
	time.Sleep(pause)
}
