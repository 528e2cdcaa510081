// A web server on Go's standard library.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const bodyLimit = 16 << 20

var started = time.Now()

func page(writer http.ResponseWriter, request *http.Request) {
	if request.URL.Path != "/" {
		http.NotFound(writer, request)
		return
	}
	writer.Header().Set("content-type", "text/html; charset=utf-8")
	fmt.Fprintf(writer, "<!doctype html><title>Go</title><h1>Hello from Go %s on %d CPUs</h1>\n",
		runtime.Version(), runtime.NumCPU())
}

func health(writer http.ResponseWriter, _ *http.Request) {
	writer.Header().Set("content-type", "application/json")
	json.NewEncoder(writer).Encode(map[string]any{
		"status": "ok", "uptime": time.Since(started).Seconds(), "goroutines": runtime.NumGoroutine(),
	})
}

func echo(writer http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost {
		http.Error(writer, "POST something", http.StatusMethodNotAllowed)
		return
	}
	io.Copy(writer, http.MaxBytesReader(writer, request.Body, bodyLimit))
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8001"
	}
	http.HandleFunc("/", page)
	http.HandleFunc("/health", health)
	http.HandleFunc("/echo", echo)
	server := &http.Server{Addr: "0.0.0.0:" + port, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 30 * time.Second}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		limit, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		server.Shutdown(limit)
	}()
	fmt.Println("go-web: listening on port", port)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "go-web:", err)
		os.Exit(1)
	}
	fmt.Println("go-web: stopped")
}
