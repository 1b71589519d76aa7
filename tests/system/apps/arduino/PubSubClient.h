// A stand-in for the library PubSubClient 2.8, written from its documented interface: MQTT 3.1.1, publishes at QoS 0,
// subscribes at QoS 0 and 1, and drops messages beyond its buffer without a word, as that does.
#pragma once
#include "WiFi.h"

class PubSubClient {
 public:
  typedef void (*Callback)(char* topic, uint8_t* payload, unsigned int length);

  explicit PubSubClient(Client& client) : client_(&client) {}
  PubSubClient& setServer(const char* host, uint16_t port) { return host_ = host, port_ = port, *this; }
  PubSubClient& setCallback(Callback callback) { return callback_ = callback, *this; }
  PubSubClient& setSocketTimeout(uint16_t seconds) { return timeout_s_ = seconds, *this; }
  PubSubClient& setKeepAlive(uint16_t seconds) { return keep_alive_s_ = seconds, *this; }
  boolean setBufferSize(uint16_t size) { return buffer_.resize(size), true; }
  int state() { return state_; }

  boolean connect(const char* id, const char* user, const char* password) {
    state_ = -2;
    if (!client_->connect(host_, port_)) return false;
    std::string body = text("MQTT") + '\4' + char(2 | (user ? 0x80 : 0) | (user && password ? 0x40 : 0));
    body += number(keep_alive_s_) + text(id);
    if (user) body += text(user) + (password ? text(password) : "");
    write(0x10, body);
    uint8_t kind;
    std::string answer;
    const unsigned long began = millis();
    state_ = -4;
    while (!read(&kind, &answer)) {
      if (millis() - began > timeout_s_ * 1000UL || !client_->connected()) return client_->stop(), false;
    }
    state_ = answer.size() == 2 ? answer[1] : -4;
    if (kind != 0x20 || state_ != 0) return client_->stop(), false;
    heard_at_ = said_at_ = millis();
    return true;
  }
  boolean connected() { return state_ == 0 && client_->connected(); }

  boolean publish(const char* topic, const char* payload) {
    if (!connected() || 5 + 2 + strlen(topic) + strlen(payload) > buffer_.size()) return false;
    return write(0x30, text(topic) + payload);
  }
  boolean subscribe(const char* topic, uint8_t qos) {
    if (!connected()) return false;
    return write(0x82, number(++packet_) + text(topic) + char(qos));
  }

  boolean loop() {
    if (!connected()) return false;
    if (millis() - heard_at_ > keep_alive_s_ * 1000UL || millis() - said_at_ > keep_alive_s_ * 1000UL) {
      if (is_pinging_) return client_->stop(), false;
      is_pinging_ = write(0xC0, "");
      heard_at_ = millis();
    }
    uint8_t kind;
    std::string body;
    if (!read(&kind, &body)) return true;
    heard_at_ = millis();
    is_pinging_ = false;
    if ((kind & 0xF0) == 0x30 && body.size() + 5 <= buffer_.size()) take(kind, body);
    return true;
  }

 private:
  static std::string number(unsigned value) { return {char(value >> 8), char(value)}; }
  static std::string text(const std::string& value) { return number(value.size()) + value; }

  bool write(uint8_t kind, const std::string& body) {
    std::string packet(1, char(kind));
    size_t left = body.size();
    do {
      packet += char((left & 127) | (left > 127 ? 128 : 0));
    } while (left >>= 7);
    packet += body;
    said_at_ = millis();
    return client_->write(reinterpret_cast<const uint8_t*>(packet.data()), packet.size()) == packet.size();
  }

  int byteOf() {
    const unsigned long began = millis();
    while (!client_->available()) {
      if (millis() - began > timeout_s_ * 1000UL || !client_->connected()) return -1;
      delay(1);
    }
    return client_->read();
  }

  bool read(uint8_t* kind, std::string* body) {
    if (!client_->available()) return false;
    *kind = byteOf();
    size_t size = 0;
    for (int shift = 0, one = 128; one & 128; shift += 7) {
      if ((one = byteOf()) < 0) return false;
      size |= size_t(one & 127) << shift;
    }
    body->clear();
    while (body->size() < size) {
      const int one = byteOf();
      if (one < 0) return false;
      *body += char(one);
    }
    return true;
  }

  void take(uint8_t kind, const std::string& body) {
    const size_t length = size_t(uint8_t(body[0])) << 8 | uint8_t(body[1]);
    std::string topic = body.substr(2, length), payload = body.substr(2 + length);
    if (kind & 6) {
      write(0x40, payload.substr(0, 2));
      payload.erase(0, 2);
    }
    if (callback_) callback_(&topic[0], reinterpret_cast<uint8_t*>(&payload[0]), payload.size());
  }

  Client* client_;
  const char* host_ = "";
  uint16_t port_ = 0, timeout_s_ = 15, keep_alive_s_ = 15, packet_ = 0;
  Callback callback_ = nullptr;
  std::string buffer_ = std::string(256, 0);
  int state_ = -1;
  bool is_pinging_ = false;
  unsigned long heard_at_ = 0, said_at_ = 0;
};
