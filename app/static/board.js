// What the page can do better with JavaScript: new posts appear by themselves, and times are local.
// Without it, everything works too.
"use strict";

const list = document.getElementById("posts");
const live = document.getElementById("live");
const PAGE = 20;

function localTimes(root) {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = time.textContent;
    time.textContent = format.format(new Date(time.dateTime));
  }
}

function show(message) {
  const template = document.createElement("template");
  template.innerHTML = message.html; // rendered and escaped by the server, with the page's own template
  const post = template.content.firstElementChild;
  localTimes(post);
  const old = document.getElementById(post.id);
  if (old) {
    old.replaceWith(post);
    return;
  }
  if (message.type !== "post") return; // a change to a post which is not on this page
  const next = [...list.children].find((other) => Number(other.dataset.id) < message.id);
  post.classList.add("new");
  list.insertBefore(post, next ?? null);
  document.getElementById("empty")?.remove();
  while (list.children.length > 10 * PAGE) list.lastElementChild.remove();
}

// After a pause in the feed: fetch the page once more and take over what is not here yet.
async function catchUp() {
  const response = await fetch("/", { headers: { accept: "text/html" } });
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const post of [...page.querySelectorAll("#posts > .post")].reverse()) {
    show({ type: "post", id: Number(post.dataset.id), html: post.outerHTML });
  }
}

function status(on) {
  live.hidden = false;
  live.classList.toggle("on", on);
  live.textContent = on ? "Live" : "Reconnecting…";
}

let failures = 0;
let interrupted = false;

function connect() {
  const socket = new WebSocket(new URL(list.dataset.live, location.href.replace(/^http/, "ws")));
  socket.onopen = () => {
    failures = 0;
    status(true);
    if (interrupted) catchUp();
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "delete") document.getElementById(`post-${message.id}`)?.remove();
    else if (message.type === "resync") setTimeout(catchUp, 3000 * Math.random()); // not all at once
    else show(message);
  };
  socket.onclose = () => {
    interrupted = true;
    status(false);
    // Spread out, so that a restart does not bring everyone back in the same moment.
    const pause = Math.min(30000, 500 * 2 ** failures++) * (0.5 + Math.random());
    setTimeout(connect, pause);
  };
}

localTimes(document);
if (list.dataset.live) connect();

document.querySelector("form").addEventListener("submit", (event) => {
  // A second click must not post twice; leave the button out of the way only after the form has been read.
  const button = event.target.querySelector("button");
  setTimeout(() => (button.disabled = true));
  addEventListener("pageshow", () => (button.disabled = false), { once: true });
});
