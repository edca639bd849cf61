package lsr.lucene;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.apache.lucene.util.BytesRef;

/** The buffers that go to and from Python: little-endian; strings are a length and UTF-8 bytes. */
final class Packed {
  private Packed() {}

  static ByteBuffer little(byte[] bytes) {
    return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  static int[] ints(ByteBuffer in, int count) {
    int[] values = new int[count];
    in.asIntBuffer().get(values);
    in.position(in.position() + 4 * count);
    return values;
  }

  static byte[] bytes(ByteBuffer in) {
    byte[] value = new byte[in.getInt()];
    in.get(value);
    return value;
  }

  static String string(ByteBuffer in) {
    return new String(bytes(in), StandardCharsets.UTF_8);
  }

  /** A forward vector: for each term, ascending, the step from the last id and the impact, vints. */
  static BytesRef forward(int[] terms, int[] impacts, int start, int end) {
    ByteArrayOutputStream out = new ByteArrayOutputStream(3 * (end - start));
    int previous = 0;
    for (int i = start; i < end; i++) {
      vint(out, terms[i] - previous);
      vint(out, impacts[i]);
      previous = terms[i];
    }
    return new BytesRef(out.toByteArray());
  }

  private static void vint(ByteArrayOutputStream out, int value) {
    while (value > 127) {
      out.write(value & 127 | 128);
      value >>>= 7;
    }
    out.write(value);
  }

  /** Σ over the terms of a forward vector of impact × weight, weights by term id. */
  static int product(int[] weights, BytesRef forward) {
    byte[] bytes = forward.bytes;
    int at = forward.offset;
    int end = at + forward.length;
    int term = 0;
    int sum = 0;
    while (at < end) {
      int value = 0;
      int shift = 0;
      for (; bytes[at] < 0; at++, shift += 7) {
        value |= (bytes[at] & 127) << shift;
      }
      value |= bytes[at++] << shift;
      term += value;
      int impact = 0;
      shift = 0;
      for (; bytes[at] < 0; at++, shift += 7) {
        impact |= (bytes[at] & 127) << shift;
      }
      impact |= bytes[at++] << shift;
      sum += weights[term] * impact;
    }
    return sum;
  }

  /** A growing little-endian buffer. */
  static final class Writer {
    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    private final DataOutputStream out = new DataOutputStream(bytes);

    void integer(int value) throws IOException {
      out.writeInt(Integer.reverseBytes(value));
    }

    void string(byte[] value) throws IOException {
      string(new BytesRef(value));
    }

    void string(BytesRef value) throws IOException {
      integer(value.length);
      out.write(value.bytes, value.offset, value.length);
    }

    byte[] bytes() {
      return bytes.toByteArray();
    }
  }
}
