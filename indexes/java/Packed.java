package lsr.lucene;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.FixedBitSet;

/** The buffers exchanged with Python: little-endian; strings are a length and UTF-8 bytes. */
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

  /** A forward vector: per term, ascending, the step from the last id and the impact, as vints. */
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

  /** Reads a forward vector, term by term. */
  static final class Terms {
    private final byte[] bytes;
    private final int end;
    private int at;
    int term;
    int impact;

    Terms(BytesRef forward) {
      bytes = forward.bytes;
      at = forward.offset;
      end = at + forward.length;
    }

    boolean next() {
      if (at == end) {
        return false;
      }
      term += vint();
      impact = vint();
      return true;
    }

    private int vint() {
      int value = 0;
      int shift = 0;
      for (; bytes[at] < 0; at++, shift += 7) {
        value |= (bytes[at] & 127) << shift;
      }
      return value | bytes[at++] << shift;
    }
  }

  /** The number of code points in valid UTF-8, which is the length of Python's string. */
  static int codePoints(BytesRef text) {
    int count = 0;
    for (int i = text.offset; i < text.offset + text.length; i++) {
      count += (text.bytes[i] & 0xC0) == 0x80 ? 0 : 1;
    }
    return count;
  }

  /** A growing little-endian buffer. */
  static final class Writer {
    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    private final DataOutputStream out = new DataOutputStream(bytes);

    void integer(int value) throws IOException {
      out.writeInt(Integer.reverseBytes(value));
    }

    void number(long value) throws IOException {
      out.writeLong(Long.reverseBytes(value));
    }

    void string(byte[] value) throws IOException {
      string(new BytesRef(value));
    }

    void string(BytesRef value) throws IOException {
      integer(value.length);
      out.write(value.bytes, value.offset, value.length);
    }

    void bytes(byte[] value) throws IOException {
      out.write(value);
    }

    /** Longs, the first document in the lowest bit of the first. */
    void bits(FixedBitSet bits) throws IOException {
      long[] words = bits.getBits();
      for (int i = 0; i < FixedBitSet.bits2words(bits.length()); i++) {
        number(words[i]);
      }
    }

    void append(Writer more) throws IOException {
      more.bytes.writeTo(out);
    }

    /** The length of each string in code points, then the bytes of all. */
    void strings(List<BytesRef> values) throws IOException {
      for (BytesRef value : values) {
        integer(codePoints(value));
      }
      for (BytesRef value : values) {
        out.write(value.bytes, value.offset, value.length);
      }
    }

    byte[] bytes() {
      return bytes.toByteArray();
    }
  }
}
