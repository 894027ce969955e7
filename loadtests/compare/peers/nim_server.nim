## The peer "nim": an answer to every line, on asyncnet's `recvLine`, over TCP or TLS.
##
## It prints `listening on ADDRESS` when it does.

import std/[asyncdispatch, asyncnet, nativesockets, net, os, strutils]

var answer = "+PONG\r\n"

proc serve(client: AsyncSocket, context: SslContext) {.async.} =
  try:
    client.setSockOpt(OptNoDelay, true, level = IPPROTO_TCP.cint)
    if context != nil:
      wrapConnectedSocket(context, client, handshakeAsServer)
    while true:
      let line = await client.recvLine()
      if line.len == 0:
        break # the client went away; an empty line is "\r\n"
      await client.send(answer)
  except OSError, SslError:
    discard # the client went away
  finally:
    if not client.isClosed:
      client.close()

proc main() {.async.} =
  var cert, key = ""
  let words = commandLineParams()
  for at, word in words:
    case word
    of "--bulk": answer = repeat('x', 65536)
    of "--tls-cert": cert = words[at + 1]
    of "--tls-key": key = words[at + 1]
    else: discard
  var context: SslContext = nil
  if cert.len > 0:
    context = newContext(protSSLv23, CVerifyNone, cert, key)
  let server = newAsyncSocket()
  server.setSockOpt(OptReuseAddr, true)
  server.bindAddr(Port(0), "127.0.0.1")
  server.listen(1024)
  echo "listening on 127.0.0.1:", server.getLocalAddr()[1].int
  flushFile(stdout)
  while true:
    asyncCheck serve(await server.accept(), context)

waitFor main()
