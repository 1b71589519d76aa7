// Asks a node of edgeslm from an ESP32 and gets its label, with PubSubClient 2.8 (MQTT 3.1.1). loop() doesn't wait.
//
// Arduino IDE: board package "esp32", library "PubSubClient" by Nick O'Leary. Type a text into the Serial Monitor
// (115200, newline); call ask() where your own sketch has something to ask, and act in answered().

#include <WiFi.h>
#include <PubSubClient.h>

const char* WIFI_NAME = "my-wifi";
const char* WIFI_PASSWORD = "secret";
const char* BROKER = "192.168.1.10"; // an address: .local names need mDNS
const uint16_t PORT = 1883;
const char* USER = nullptr; // a login, where the broker wants one; with the access list of `edgeslm provision` make
const char* PASSWORD = nullptr; // BOARD the same as USER
const char* NODE = "press-hall-4";
const char* TASK = "triage";
const char* BOARD = "panel-7"; // another name for each board: two with the same throw each other off the broker

const unsigned long GIVE_UP_MS = 60000, FIRST_REPEAT_MS = 5000, LONGEST_REPEAT_MS = 30000, RECONNECT_MS = 5000;
const size_t BUFFER = 2048; // PubSubClient's default is 256, and it drops what is longer without a word

WiFiClient network;
PubSubClient mqtt(network);
char requestTopic[128], replyTopic[128];
char request[1024], id[64]; // of the request that waits; id is empty when none does
unsigned long startedAt, sentAt, repeatMs, triedAt;
uint32_t boot;
unsigned long count = 0;

// What your sketch does with an answer: label, or nullptr and the code of an error ("timeout": nobody answered).
void answered(const char* label, const char* code) {
  if (label != nullptr) Serial.printf("label %s\n", label);
  else Serial.printf("error %s\n", code);
}

// Appends text as a JSON string; false if there is no room.
bool appendText(char* out, size_t size, const char* text) {
  size_t at = strlen(out);
  if (at + 1 >= size) return false;
  out[at++] = '"';
  for (; *text; text++) {
    unsigned char one = *text;
    if (at + 4 >= size) return false;
    if (one == '"' || one == '\\') out[at++] = '\\';
    out[at++] = one < ' ' ? ' ' : one;
  }
  out[at++] = '"';
  out[at] = 0;
  return true;
}

// The text of a field of a result; false if it isn't there. ArduinoJson does this for any JSON.
bool fieldOf(const char* json, const char* name, char* out, size_t size) {
  char key[24];
  snprintf(key, sizeof key, "\"%s\"", name);
  const char* at = strstr(json, key);
  if (at == nullptr) return false;
  at += strlen(key);
  while (*at == ' ' || *at == ':') at++;
  if (*at++ != '"') return false;
  size_t length = 0;
  while (*at && *at != '"' && length + 1 < size) {
    if (*at == '\\' && at[1]) at++;
    out[length++] = *at++;
  }
  out[length] = 0;
  return true;
}

void send() {
  sentAt = millis();
  if (mqtt.connected()) mqtt.publish(requestTopic, request);
}

// Asks; false if another request still waits, or the text is too long. answered() gets what comes.
bool ask(const char* text) {
  if (id[0]) return false;
  // A board counts from 1 again after each start, and a node knows yesterday's ids: so the start is in the id.
  snprintf(id, sizeof id, "%s-%08lx-%lu", BOARD, (unsigned long)boot, ++count);
  snprintf(request, sizeof request, "{\"id\": \"%s\", \"reply_to\": \"%s\", \"input\": ", id, replyTopic);
  if (!appendText(request, sizeof request - 1, text)) {
    id[0] = 0;
    return false;
  }
  strcat(request, "}");
  startedAt = millis();
  repeatMs = FIRST_REPEAT_MS;
  send();
  return true;
}

void onMessage(char* topic, byte* payload, unsigned int length) {
  static char json[BUFFER], text[96]; // not on the stack, which is small
  if (length >= sizeof json) return;
  memcpy(json, payload, length); // the payload has no zero at its end, and is gone after this function
  json[length] = 0;
  if (!fieldOf(json, "id", text, sizeof text) || strcmp(text, id) != 0) return; // an answer that came twice
  if (fieldOf(json, "label", text, sizeof text)) {
    // With a threshold in the task, look at "status" too: it may be "abstained".
    id[0] = 0;
    answered(text, nullptr);
  } else if (fieldOf(json, "code", text, sizeof text) && strcmp(text, "busy") != 0) {
    id[0] = 0;
    answered(nullptr, text);
  } // busy: it is sent again in a while anyway
}

void keepConnected() {
  if (mqtt.connected() || WiFi.status() != WL_CONNECTED) return; // the ESP32 mends its WiFi by itself
  if (triedAt && millis() - triedAt < RECONNECT_MS) return;
  triedAt = millis();
  // Waits for the broker, but no longer than setSocketTimeout says.
  if (!mqtt.connect(BOARD, USER, PASSWORD)) {
    Serial.printf("no broker: state %d\n", mqtt.state()); // 5: the login is wrong; -2: nothing listens there
    return;
  }
  mqtt.subscribe(replyTopic, 1); // before the request, or the answer is missed
  if (id[0]) send();
}

// PubSubClient publishes at QoS 0, which may be lost. So the same bytes go again until there is an answer; the node
// knows the id and runs the request once.
void repeatOrGiveUp() {
  if (!id[0]) return;
  if (millis() - startedAt > GIVE_UP_MS) { // this subtraction is right also when millis() starts again at 0
    id[0] = 0;
    answered(nullptr, "timeout");
  } else if (millis() - sentAt > repeatMs) {
    repeatMs = min(2 * repeatMs, LONGEST_REPEAT_MS);
    send();
  }
}

void setup() {
  Serial.begin(115200);
  WiFi.mode(WIFI_STA);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  boot = esp_random();
  snprintf(requestTopic, sizeof requestTopic, "edgeslm/v1/%s/req/%s", NODE, TASK);
  snprintf(replyTopic, sizeof replyTopic, "edgeslm/v1/%s/res/%s/%s", NODE, TASK, BOARD);
  mqtt.setServer(BROKER, PORT);
  mqtt.setCallback(onMessage);
  mqtt.setBufferSize(BUFFER);
  mqtt.setSocketTimeout(2);
}

void loop() {
  static char line[512];
  static size_t length = 0;
  keepConnected();
  mqtt.loop();
  repeatOrGiveUp();
  while (Serial.available()) {
    char one = Serial.read();
    if (one == '\n') {
      line[length] = 0;
      if (length && !ask(line)) Serial.println("wait for the answer, or send less text");
      length = 0;
    } else if (one != '\r' && length + 1 < sizeof line) {
      line[length++] = one;
    }
  }
}
