// Sends three analogue inputs 200 times a second, for examples/sources/serial-packets.toml: one packet for each sample, with
// its number and the board's own time.

#include "edgewatt_packet.h"

const unsigned long PERIOD_US = 5000;
uint16_t sequence;
uint32_t next_us;

void setup() {
  Serial.begin(921600);
  next_us = micros();
}

void loop() {
  // The difference is right when micros() starts again from 0, too.
  if ((int32_t)((uint32_t)micros() - next_us) < 0) {
    return;
  }
  uint8_t packet[12];
  edgewatt_put16(packet + 0, sequence++);
  edgewatt_put32(packet + 2, next_us);
  edgewatt_put16(packet + 6, analogRead(A0));
  edgewatt_put16(packet + 8, analogRead(A1));
  edgewatt_put16(packet + 10, analogRead(A2));
  uint8_t frame[EDGEWATT_FRAME_BYTES(sizeof packet)];
  Serial.write(frame, edgewatt_frame(packet, sizeof packet, frame));
  next_us += PERIOD_US;
}
