/* As much of Arduino's library as the sketches of examples/boards/ use, for a computer: the clock goes on with each reading,
   an input's value is a count, and what is sent goes to standard output. main() runs a sketch for argv[1] samples. */

#include <cstdint>
#include <cstdio>
#include <cstdlib>

static const int A0 = 0, A1 = 1, A2 = 2;
static int samples_to_read = 0;
/* Both clocks start again from 0 soon after the start, as micros() does every 71 minutes. */
static uint64_t now_us = 4294900000u;

static inline unsigned long micros() {
  now_us += 100;
  return (uint32_t)now_us;
}

static inline unsigned long millis() {
  now_us += 100;
  return (uint32_t)(now_us / 1000);
}

/* Inputs are read one after the other: 0, 1 and 2 are one sample. */
static inline int analogRead(int pin) {
  static int count = 0;
  int sample = count++ / 3;
  if (pin == A2) samples_to_read--;
  return (sample * 3 + pin) % 1024;
}

struct Port {
  void begin(unsigned long) {}
  void print(unsigned long number) { std::printf("%lu", number); }
  void print(int number) { std::printf("%d", number); }
  void print(char c) { std::putchar(c); }
  void println(int number) { std::printf("%d\r\n", number); }
  void write(const uint8_t *bytes, size_t length) { std::fwrite(bytes, 1, length, stdout); }
};
static Port Serial;

void setup();
void loop();

int main(int, char **arguments) {
  samples_to_read = std::atoi(arguments[1]);
  setup();
  while (samples_to_read > 0) loop();
}
