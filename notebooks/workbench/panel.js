// The browser's client of the class poll. `root` is the element that it fills; `place` says
// where the server is: its port, and the gateway's path.
function pollPanel(root, place) {
  const status = root.querySelector("[role=status]"), ways = waysTo(place);
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-"); // its votes count once by it
  let socket, timer, way = 0, pause = 500, isOpen = false;
  let asked = "", total = 0, rows = [], mine = null, isCounted = false;

  function connect() {
    if (!root.isConnected) return setTimeout(connect, 1000); // the output is out of the page
    socket = new WebSocket(ways[way]);
    socket.onopen = () => send(1, "tally");
    socket.onmessage = hear;
    socket.onclose = lose;
    timer = setTimeout(lose, 5000);
  }
  function hear({ data }) {
    if (!root.isConnected) return lose();
    clearTimeout(timer);
    timer = setTimeout(beat, 15000);
    const isBack = !isOpen;
    [isOpen, pause] = [true, 500]; // only now: a proxy opens a way to a dead server, too
    receive(JSON.parse(data));
    if (isBack && mine && !isCounted) cast(); // it may have been lost
  }
  function beat() { // a page cannot ping, but what has an id is answered, even if with an error
    send(3, "ping");
    timer = setTimeout(lose, 5000);
  }
  function lose() { // closed, or silent: then the end of its closing is not waited for
    clearTimeout(timer);
    socket.onmessage = socket.onclose = null;
    socket.close();
    if (!isOpen) way = (way + 1) % ways.length;
    isOpen = false;
    tell(pause < 4000 ? "No connection, trying again."
      : "No server answers, still trying. Was it stopped? Run its cell again, then this one.");
    setTimeout(connect, Math.random() * pause); // at random, so that not all come back at once
    pause = Math.min(2 * pause, 8000);
  }
  const send = (id, event, data) => socket.send(JSON.stringify({ id, event, data }));

  function receive({ id, event, data }) {
    if (id === 3) return;
    if (event === "exception") mine = null;
    else if (id === 1) show(data);
    else if (id === 2) isCounted = true;
    tell(event === "exception" ? data.message : !rows.length ? "No question is open yet."
      : !mine ? "Choose an answer." : !isCounted ? "Sent."
      : `Your vote: ${rows[mine.choice].button.textContent}.`);
  }
  function vote(choice, question) {
    if (!isOpen || mine) return;
    [mine, isCounted] = [{ choice, key, question }, false];
    cast();
  }
  function cast() {
    send(2, "vote", mine);
    tell("Sent.");
  }
  function show({ question, choices, votes }) {
    const now = JSON.stringify([question, choices]), sum = votes.reduce((a, b) => a + b, 0);
    if (now !== asked || sum < total) ask(question, choices);
    [asked, total] = [now, sum];
    rows.forEach(({ bar, count }, choice) => {
      bar.style.width = `${(100 * votes[choice]) / Math.max(10, ...votes)}%`;
      count.textContent = `${votes[choice]} ${votes[choice] === 1 ? "vote" : "votes"}`;
    });
  }
  function ask(question, choices) {
    mine = null;
    rows = choices.map((textContent, choice) => ({
      button: make("button", { textContent, onclick: () => vote(choice, question) }),
      bar: make("div", { className: "bar" }), count: make("span", {}),
    }));
    const list = rows.map(row => make("li", {}, row.button, make("div", {}, row.bar), row.count));
    root.replaceChildren(make("p", { textContent: question }),
      make("ul", { ariaLabel: question }, ...list), status);
  }
  function tell(text) { // only what is new: it may be read aloud
    if (status.textContent !== text) status.textContent = text;
    root.classList.toggle("lost", !isOpen);
    rows.forEach(({ button }, choice) => Object.assign(button,
      { ariaDisabled: !isOpen || mine !== null, ariaPressed: mine?.choice === choice }));
  }
  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  tell(!ways.length ? "This page has no way to the kernel: open it in JupyterLab instead."
    : !place ? "A still picture: its server is gone. Run all up to this cell to vote."
    : "Connecting.");
  if (ways.length && place) connect();
}

// Directly if the page is from this machine; else, or if that fails, through Jupyter's proxy.
function waysTo(place) {
  const config = document.getElementById("jupyter-config-data"), { origin } = location;
  const isLocal = /^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:|$)/.test(origin);
  const ways = isLocal ? [`ws://127.0.0.1:${place}`] : [];
  if (!config) return ways;
  const { baseUrl } = JSON.parse(config.textContent);
  return [...ways, `${origin.replace("http", "ws")}${baseUrl}proxy/${place}`];
}
