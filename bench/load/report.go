package main

import "sort"

// figures is what is printed. Counts of calls are of the window, but for those said to be of the whole run.
type figures struct {
	Mode        string         `json:"mode"`
	Callers     int            `json:"callers"`
	Connections int            `json:"connections"`
	SizeBytes   int            `json:"size_bytes"` // of a published version; else 0
	Seconds     float64        `json:"seconds"`
	Done        int            `json:"done"`
	PerSecond   float64        `json:"per_second"`
	P50         float64        `json:"p50_ms"`
	P99         float64        `json:"p99_ms"`
	Max         float64        `json:"max_ms"`
	CPU         float64        `json:"cpu_s"`    // of the generator, user and system
	Warmed      int            `json:"warmed"`   // done outside of the window
	Failures    int            `json:"failures"` // of the whole run
	Codes       map[string]int `json:"codes"`
	Generations []uint64       `json:"generations"`        // by caller, in the end; of publish the newest version's number
	Before      []uint64       `json:"generations_before"` // and before the run
}

func report(o options, callers []*caller, cpu float64) figures {
	made := figures{
		Mode: o.mode, Callers: o.callers, Connections: o.connections, Seconds: o.seconds, CPU: cpu, Codes: map[string]int{},
	}
	if o.mode == "publish" {
		made.SizeBytes = o.size
	}
	var took []float64
	for _, one := range callers {
		took = append(took, one.tookMs...)
		made.Warmed += one.warmed
		made.Before = append(made.Before, one.before.generation)
		made.Generations = append(made.Generations, one.at.generation)
		for code, count := range one.codes {
			made.Codes[code] += count
			made.Failures += count
		}
	}
	sort.Float64s(took)
	made.Done = len(took)
	made.PerSecond = float64(len(took)) / o.seconds
	made.P50, made.P99, made.Max = percentile(took, 50), percentile(took, 99), percentile(took, 100)
	return made
}

// percentile of durations in order; 0 of none.
func percentile(ordered []float64, percent int) float64 {
	if len(ordered) == 0 {
		return 0
	}
	index := len(ordered) * percent / 100
	if index >= len(ordered) {
		index = len(ordered) - 1
	}
	return ordered[index]
}
