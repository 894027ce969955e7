// The peer "go": `+PONG` to every line, on bufio, over TCP or crypto/tls.
//
// Answers are written when no more input is at hand, as gnet and redis-server do: 32 lines at once are
// one write. It prints `listening on ADDRESS` when it does.
package main

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
)

func serve(client net.Conn) {
	defer client.Close()
	reader := bufio.NewReader(client)
	writer := bufio.NewWriter(client)
	for {
		if _, err := reader.ReadSlice('\n'); err != nil {
			return // the client went away
		}
		if _, err := writer.WriteString("+PONG\r\n"); err != nil {
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
	cert := flag.String("tls-cert", "", "certificate chain, PEM; TLS if given")
	key := flag.String("tls-key", "", "its key, PEM")
	flag.Parse()
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
