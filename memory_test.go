package main

import (
	"runtime"
	runtimemetrics "runtime/metrics"
	"testing"
)

var ballast []byte

func TestTrimHeap(t *testing.T) {
	ballast = make([]byte, 64<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	ballast = nil
	runtime.GC()
	trimHeap()
	free := []runtimemetrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	runtimemetrics.Read(free)
	if n := free[0].Value.Uint64(); n > 16<<20 {
		t.Errorf("%d bytes of free heap stay", n)
	}
}
