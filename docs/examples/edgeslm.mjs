// Asks a node of edgeslm over MQTT: for Node.js 18 or newer and for browsers, with MQTT.js 5 (npm install mqtt).
import mqtt from "mqtt";

const FIRST_REPEAT_MS = 5000, LONGEST_REPEAT_MS = 30000;

/** A connection to one node. Make one and keep it: it reconnects and resubscribes automatically.
 *  options are MQTT.js's: username, password, ca ... login, only at a broker whose access list `edgeslm provision`
 *  made, is the name of this app there. */
export function connect(url, node, {login, ...options} = {}) {
  const base = `edgeslm/v1/${node}`;
  // Not crypto.randomUUID(): browsers have that on https pages only.
  const name = `js-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;
  // The session outlives a broken connection, so that a result that comes meanwhile isn't lost.
  const client = mqtt.connect(url, {protocolVersion: 5, clientId: name, clean: false, resubscribe: false,
                                    properties: {sessionExpiryInterval: 300}, ...options});
  const waiting = new Map(); // id -> {send, take}
  const subscribed = new Map(); // task -> promise, on this connection
  let asked = 0, mostBytes = Infinity;

  client.on("error", (error) => console.error(`edgeslm: ${error.message}`)); // without a listener Node.js would end
  client.on("close", () => subscribed.clear());
  client.on("connect", ({properties}) => {
    mostBytes = properties?.maximumPacketSize ?? Infinity;
    waiting.forEach((one) => one.send()); // a broker that was killed may have forgotten it
  });
  client.on("message", (topic, payload) => {
    try {
      const message = JSON.parse(payload.toString());
      waiting.get(message.id)?.take(message, topic.endsWith("/stream"));
    } catch (error) {
      console.error(`edgeslm: no JSON on ${topic}`);
    }
  });

  function subscribe(task, replyTo) {
    if (!subscribed.has(task)) subscribed.set(task, client.subscribeAsync([replyTo, `${replyTo}/stream`], {qos: 1}));
    return subscribed.get(task);
  }

  /** One request: a promise of its result. A result with status "error" is one too: look at result.error.code.
   *  timeout in ms; options as in docs/reference/mqtt.md; onText is called with each piece of text while it is made;
   *  signal (of an AbortController) stops waiting, and the node is told to cancel. */
  async function ask(task, input, {timeout = 60000, options = {}, onText, signal} = {}) {
    const id = `${name}-${++asked}`; // new for each request, the same in its repeats: the node runs it once
    const replyTo = `${base}/res/${task}/${login ? `${login}/` : ""}${name}`;
    const payload = JSON.stringify({input, options: onText ? {...options, stream: true} : options});
    const until = Date.now() + timeout;
    let timer, lastSeq = -1, pause = FIRST_REPEAT_MS;

    return new Promise((resolve, reject) => {
      const end = (settle, value) => {
        clearTimeout(timer);
        clearTimeout(patience);
        signal?.removeEventListener("abort", abort);
        waiting.delete(id);
        settle(value);
      };
      const giveUp = (error) => {
        end(reject, error);
        if (client.connected) client.publish(`${base}/cancel`, "", {qos: 1, properties: {correlationData: id}});
      };
      const abort = () => giveUp(signal.reason);
      const send = async () => {
        clearTimeout(timer);
        timer = setTimeout(send, pause * (0.75 + Math.random() / 2));
        pause = Math.min(2 * pause, LONGEST_REPEAT_MS);
        if (!client.connected) return; // it is sent when there is a connection
        if (new TextEncoder().encode(payload).length + 500 > mostBytes) { // the broker would hang up, again and again
          return end(reject, new Error(`the broker takes ${mostBytes} bytes; send less text`));
        }
        try {
          await subscribe(task, replyTo); // the answer must not come before that
          if (!waiting.has(id)) return;
          await client.publishAsync(`${base}/req/${task}`, payload, {qos: 1, properties: {
            responseTopic: replyTo, correlationData: id,
            messageExpiryInterval: Math.max(1, Math.ceil((until - Date.now()) / 1000)),
          }});
        } catch (error) {
          if (client.connected) end(reject, error); // refused: no permission, too large
        }
      };
      const take = (message, isPiece) => {
        if (isPiece) {
          if (message.seq > lastSeq) onText?.(message.text); // a request that is run anew begins again with 0
          lastSeq = Math.max(lastSeq, message.seq);
        } else if (message.error?.code === "busy" && Date.now() + (message.error.retry_after_ms ?? pause) < until) {
          clearTimeout(timer);
          timer = setTimeout(send, message.error.retry_after_ms ?? pause);
        } else {
          end(resolve, message);
        }
      };
      const patience = setTimeout(() => giveUp(new Error(`no result of ${node} within ${timeout} ms`)), timeout);
      signal?.addEventListener("abort", abort);
      if (signal?.aborted) return abort();
      waiting.set(id, {send, take});
      send();
    });
  }

  return {ask, client, close: () => client.endAsync(!client.connected)};
}
