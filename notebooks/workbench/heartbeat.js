// The heartbeat of a page, which cannot ping: it asks the gateway, and any message will do.
// `lost` is called when none has come for `interval` and then `patience` milliseconds.
function heartbeat(socket, lost, interval = 20000, patience = 20000) {
  let timer = setTimeout(ask, interval);
  function ask() {
    timer = setTimeout(giveUp, patience);
    socket.send(JSON.stringify({ event: "ping" }));
  }
  function giveUp() {
    socket.close(); // has no end here: the answer to it does not come either
    lost();
  }
  socket.addEventListener("close", () => clearTimeout(timer));
  socket.addEventListener("message", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, interval);
  });
}
