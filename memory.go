package main

import (
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// heapSpare is how much free heap may stay with the process.
const heapSpare = 512 << 10

// trimHeap returns free heap to the system at once: the runtime would take minutes over what a start or a storm has
// needed. Nothing happens if there is little of it.
func trimHeap() {
	free := []runtimemetrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	runtimemetrics.Read(free)
	if free[0].Value.Uint64() > heapSpare {
		debug.FreeOSMemory()
	}
}
