// Go 1.19 or newer, standard library only: one key for all tries of one payment.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

func pay(url string, payment []byte, tries int, wait time.Duration) ([]byte, error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	key := hex.EncodeToString(random) // made once, before the first try
	client := &http.Client{Timeout: 30 * time.Second}
	var problem error
	for attempt := 1; attempt <= tries; attempt++ {
		if attempt > 1 {
			time.Sleep(wait)
			wait *= 2
		}
		request, err := http.NewRequest("POST", url, bytes.NewReader(payment))
		if err != nil {
			return nil, err
		}
		request.Header.Set("content-type", "application/json")
		request.Header.Set("idempotency-key", key)
		response, err := client.Do(request)
		if err != nil {
			problem = err // no answer: it may have been carried out, and the same key finds out
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			problem = err
			continue
		}
		if response.StatusCode < 300 {
			return body, nil
		}
		problem = errors.New(response.Status + ": " + string(body))
		// Come back where the server says when, or failed; anything else is the answer.
		after, err := strconv.Atoi(response.Header.Get("retry-after"))
		if err != nil && response.StatusCode < 500 {
			return nil, problem
		}
		if err == nil {
			wait = time.Duration(after) * time.Second
		}
	}
	return nil, problem
}

func main() {
	answer, err := pay(os.Args[1], []byte(`{"amount":100}`), 3, 500*time.Millisecond)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(answer))
}
