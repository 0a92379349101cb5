// Prints three analogue inputs 50 times a second, for examples/sources/arduino-usb.toml: one line for each sample, with the
// board's own time first.

const unsigned long PERIOD_MS = 20;
unsigned long next_ms;

void setup() {
  Serial.begin(115200);
  next_ms = millis();
}

void loop() {
  // The difference is right when millis() starts again from 0, too.
  if ((long)(millis() - next_ms) < 0) {
    return;
  }
  Serial.print(next_ms);
  Serial.print(',');
  Serial.print(analogRead(A0));
  Serial.print(',');
  Serial.print(analogRead(A1));
  Serial.print(',');
  Serial.println(analogRead(A2));
  next_ms += PERIOD_MS;
}
