// Runs a sketch, named by the macro SKETCH, as the board would.
#include "Arduino.h"
#include SKETCH

int main() {
  for (setup();; delay(1)) loop();
}
