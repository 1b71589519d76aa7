// Node.js: npm install, then
//   BROKER=mqtt://broker.local NODE=press-hall-4 node ask.mjs "Spindle 3 smells of burnt oil"
// mqtts://, ws:// and wss:// work too. Exit status: 0 the label is printed, 1 the node says no, 2 no answer.
import {connect} from "./edgeslm.mjs";

const {BROKER = "mqtt://broker.local", NODE = "press-hall-4", TIMEOUT_MS = "60000", LOGIN: login} = process.env;
const node = connect(BROKER, NODE, {login});
try {
  const {status, result, error} = await node.ask("triage", process.argv[2], {timeout: Number(TIMEOUT_MS)});
  if (status === "ok") console.log(result.label);
  else console.error(status === "abstained" ? "not sure enough" : `${error.code}: ${error.message}`);
  process.exitCode = status === "ok" ? 0 : 1;
} catch (error) { // no answer in time
  console.error(error.message);
  process.exitCode = 2;
}
await node.close();
