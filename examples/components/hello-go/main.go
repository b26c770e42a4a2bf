// A command in Go: arguments, environment, files, exit codes. A core module of WASI preview 1, as
// the standard toolchain makes it: GOOS=wasip1 GOARCH=wasm go build -o hello-go.wasm main.go
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	fmt.Printf("Hello from Go on %s: %q\n", os.Getenv("HOSTNAME"), os.Args[1:])
	for i := 1; i+1 < len(os.Args); i += 2 {
		value := os.Args[i+1]
		switch os.Args[i] {
		case "--read":
			text, err := os.ReadFile(value)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Print(string(text))
		case "--sleep":
			seconds, _ := strconv.Atoi(value)
			time.Sleep(time.Duration(seconds) * time.Second)
		case "--exit":
			code, _ := strconv.Atoi(value)
			os.Exit(code)
		}
	}
}
