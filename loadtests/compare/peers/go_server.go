// The peer "go": an answer to every line, on bufio, over TCP or crypto/tls.
//
// Answers are written when no more input is at hand, as gnet and redis-server do: 32 lines at once are
// one write. It prints `listening on ADDRESS` when it does.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
)

var answer = []byte("+PONG\r\n")

// readLine gives the next line; it is valid until the next call, and longer than the buffer only rarely.
func readLine(reader *bufio.Reader) ([]byte, error) {
	line, err := reader.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return line, err
	}
	long := append([]byte(nil), line...)
	for err == bufio.ErrBufferFull {
		line, err = reader.ReadSlice('\n')
		long = append(long, line...)
	}
	return long, err
}

func serve(client net.Conn) {
	defer client.Close()
	reader := bufio.NewReader(client)
	writer := bufio.NewWriter(client)
	for {
		if _, err := readLine(reader); err != nil {
			return // the client went away
		}
		if _, err := writer.Write(answer); err != nil {
			return
		}
		if reader.Buffered() == 0 {
			if err := writer.Flush(); err != nil {
				return
			}
		}
	}
}

func main() {
	bulk := flag.Bool("bulk", false, "answer 64 KiB")
	cert := flag.String("tls-cert", "", "certificate chain, PEM; TLS if given")
	key := flag.String("tls-key", "", "its key, PEM")
	flag.Parse()
	if *bulk {
		answer = bytes.Repeat([]byte("x"), 65536)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			log.Fatal(err)
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(client)
	}
}
