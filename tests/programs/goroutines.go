// Goroutines, channels, timers, signals, garbage collection and files from Go's runtime.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func main() {
	runtime.GOMAXPROCS(4)
	var group sync.WaitGroup
	sums := make(chan int, 100)
	for worker := 0; worker < 100; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			garbage := make([][]byte, 0)
			for i := 0; i < 50; i++ {
				garbage = append(garbage, make([]byte, 10000))
			}
			sums <- len(garbage) * worker
		}(worker)
	}
	group.Wait()
	close(sums)
	total := 0
	for sum := range sums {
		total += sum
	}
	runtime.GC()
	fmt.Println("total", total)

	received := make(chan os.Signal, 1)
	signal.Notify(received, syscall.SIGUSR1)
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		fmt.Println(err)
	}
	fmt.Println("signal", <-received)

	select {
	case <-time.After(20 * time.Millisecond):
		fmt.Println("timer fired")
	case <-received:
	}

	if err := os.WriteFile("/tmp/goroutines", []byte("written by Go"), 0o600); err != nil {
		fmt.Println(err)
	}
	data, err := os.ReadFile("/tmp/goroutines")
	fmt.Printf("%s %v %x\n", data, err, sha256.Sum256(data))

	defer func() { fmt.Println("recovered:", recover()) }()
	if len(os.Args) > 1 {
		output, err := exec.Command(os.Args[1], "echo", "a child").Output()
		fmt.Printf("%s%v\n", output, err)
	}
	var nothing *int
	*nothing = 1
}
