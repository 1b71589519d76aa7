// WiFi that is always there, and WiFiClient on a POSIX socket.
#pragma once
#include <netdb.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "Arduino.h"

enum { WL_CONNECTED = 3, WIFI_STA = 1 };

struct HostWiFi {
  void mode(int) {}
  void begin(const char*, const char*) {}
  int status() { return WL_CONNECTED; }
};
inline HostWiFi WiFi;

class Client {
 public:
  virtual ~Client() = default;
  virtual int connect(const char* host, uint16_t port) = 0;
  virtual size_t write(const uint8_t* bytes, size_t size) = 0;
  virtual int available() = 0;
  virtual int read() = 0;
  virtual void stop() = 0;
  virtual uint8_t connected() = 0;
};

class WiFiClient : public Client {
  int socket_ = -1;

 public:
  int connect(const char* host, uint16_t port) override {
    addrinfo wanted{}, *found = nullptr;
    wanted.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host, std::to_string(port).c_str(), &wanted, &found) != 0) return 0;
    socket_ = ::socket(found->ai_family, found->ai_socktype, 0);
    if (::connect(socket_, found->ai_addr, found->ai_addrlen) != 0) stop();
    freeaddrinfo(found);
    return socket_ >= 0;
  }
  size_t write(const uint8_t* bytes, size_t size) override {
    const ssize_t sent = ::send(socket_, bytes, size, MSG_NOSIGNAL);
    if (sent < 0) stop();
    return sent < 0 ? 0 : sent;
  }
  int available() override {
    int bytes = 0;
    return socket_ >= 0 && ioctl(socket_, FIONREAD, &bytes) == 0 ? bytes : 0;
  }
  int read() override {
    uint8_t one;
    return ::recv(socket_, &one, 1, 0) == 1 ? one : -1;
  }
  void stop() override {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  uint8_t connected() override {
    uint8_t one;
    if (socket_ >= 0 && ::recv(socket_, &one, 1, MSG_PEEK | MSG_DONTWAIT) == 0) stop();  // the other end hung up
    return socket_ >= 0;
  }
};
