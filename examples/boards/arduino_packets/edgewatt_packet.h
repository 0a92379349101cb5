/* Makes packets for edgewatt: a CRC-16/MODBUS after the content, COBS around both, and a byte 0 at the end. Plain C; needs
   no library and no memory but what it is given. */

#ifndef EDGEWATT_PACKET_H
#define EDGEWATT_PACKET_H

#include <stddef.h>
#include <stdint.h>

/* The most bytes of a frame around so many bytes of content. */
#define EDGEWATT_FRAME_BYTES(content) ((content) + 2 + ((content) + 2) / 254 + 2)

/* Writes a number, the low byte first. */
static inline void edgewatt_put16(uint8_t *to, uint16_t number) {
  to[0] = (uint8_t)number;
  to[1] = (uint8_t)(number >> 8);
}

static inline void edgewatt_put32(uint8_t *to, uint32_t number) {
  edgewatt_put16(to, (uint16_t)number);
  edgewatt_put16(to + 2, (uint16_t)(number >> 16));
}

/* Returns the CRC-16/MODBUS of these bytes. */
static inline uint16_t edgewatt_crc16(const uint8_t *bytes, size_t length) {
  uint16_t crc = 0xffff;
  for (size_t at = 0; at < length; at++) {
    crc ^= bytes[at];
    for (int bit = 0; bit < 8; bit++) {
      crc = (crc & 1) ? (uint16_t)(crc >> 1 ^ 0xa001) : (uint16_t)(crc >> 1);
    }
  }
  return crc;
}

/* Writes the frame of a packet, and returns its length. `frame` has room for EDGEWATT_FRAME_BYTES(length). */
static inline size_t edgewatt_frame(const uint8_t *content, size_t length, uint8_t *frame) {
  uint8_t checksum[2];
  size_t block = 0; /* Where the current block begins: its first byte counts the others. */
  size_t end = 1;
  edgewatt_put16(checksum, edgewatt_crc16(content, length));
  for (size_t at = 0; at < length + 2; at++) {
    uint8_t byte = at < length ? content[at] : checksum[at - length];
    /* A block of 254 bytes is full; the next one begins without a zero. */
    if (end - block == 255) {
      frame[block] = 255;
      block = end++;
    }
    if (byte == 0) {
      frame[block] = (uint8_t)(end - block);
      block = end++;
    } else {
      frame[end++] = byte;
    }
  }
  frame[block] = (uint8_t)(end - block);
  frame[end++] = 0;
  return end;
}

#endif
