// The browser's client of the class poll. `root` is the element that it fills; `place` says
// where the server is: its port, and the gateway's path.
function pollPanel(root, place) {
  const status = root.querySelector("[role=status]"), ways = waysTo(place);
  let socket, way = 0, pause = 250, isOpen = false;
  let asked = "", total = 0, rows = [], mine = null, isCounted = false;

  function connect() {
    if (!root.isConnected) return setTimeout(connect, 1000); // the output is out of the page
    socket = new WebSocket(ways[way]);
    const patience = setTimeout(() => socket.close(), 5000);
    socket.onopen = () => send({ id: 1, event: "tally" });
    socket.onmessage = ({ data }) => {
      if (!root.isConnected) return socket.close();
      clearTimeout(patience);
      isOpen = true; // only now: a proxy opens a way to a dead server, too
      pause = 250;
      receive(JSON.parse(data));
    };
    socket.onclose = () => {
      clearTimeout(patience);
      if (!isOpen) way = (way + 1) % ways.length;
      isOpen = false;
      if (!isCounted) mine = null; // a vote may have been lost with the connection
      tell("No server answers, still trying. Was it stopped? Run its cell again, then this one.");
      setTimeout(connect, pause);
      pause = Math.min(2 * pause, 4000);
    };
  }
  const send = message => socket.send(JSON.stringify(message));

  function receive({ id, event, data }) {
    if (event === "exception") mine = null;
    else if (id === 1) show(data);
    else isCounted = true;
    tell(event === "exception" ? data.message : !rows.length ? "No question is open yet."
      : mine === null ? "Choose an answer." : `Your vote: ${rows[mine].button.textContent}.`);
  }
  function vote(choice) {
    if (!isOpen || mine !== null) return;
    [mine, isCounted] = [choice, false];
    send({ id: 2, event: "vote", data: choice });
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
      button: make("button", { type: "button", textContent, onclick: () => vote(choice) }),
      bar: make("div", { className: "bar" }), count: make("span", {}),
    }));
    const list = rows.map(row => make("li", {}, row.button, make("div", {}, row.bar), row.count));
    const title = make("p", { textContent: question });
    root.replaceChildren(title, make("ul", { ariaLabel: question }, ...list), status);
  }
  function tell(text) {
    if (status.textContent !== text) status.textContent = text;
    rows.forEach(({ button }, choice) => Object.assign(button,
      { ariaDisabled: !isOpen || mine !== null, ariaPressed: mine === choice }));
  }
  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  if (!ways.length) tell("This page has no way to the kernel: open it in JupyterLab instead.");
  else if (!place) tell("A still picture: its server is gone. Run all up to this cell to vote.");
  else connect();
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
