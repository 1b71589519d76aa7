// As much of the Arduino core for the ESP32 as the examples use, on a POSIX host. Serial is standard input and output.
#pragma once
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

using std::max;
using std::min;
typedef uint8_t byte;
typedef bool boolean;

inline unsigned long millis() {
  static const auto began = std::chrono::steady_clock::now();
  const auto since = std::chrono::steady_clock::now() - began;
  return 1 + std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}
inline void delay(unsigned long ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
inline uint32_t esp_random() { return std::random_device{}(); }

class HostSerial {
 public:
  void begin(unsigned long) { setvbuf(stdout, nullptr, _IOLBF, 0); }
  int available() {
    pollfd one{0, POLLIN, 0};
    return poll(&one, 1, 0) > 0 && (one.revents & POLLIN);
  }
  int read() {
    char one;
    if (::read(0, &one, 1) == 1) return static_cast<unsigned char>(one);
    exit(0);  // nobody types any more
  }
  void println(const char* text) { puts(text); }
  __attribute__((format(printf, 2, 3))) int printf(const char* format, ...) {
    va_list values;
    va_start(values, format);
    const int written = vprintf(format, values);
    va_end(values);
    return written;
  }
};
inline HostSerial Serial;
