// A grader of readings small enough to be opened thousands of times, written here from the
// documented layout: weights of noise, a dictionary of three words, an alphabet for a vocabulary.
#pragma once

#include "tiny_grader.h"

namespace asa::tests {

// Deflated, but for the deflating: a stored block.
inline std::string stored(const std::string& data) {
  const auto size = static_cast<std::uint16_t>(data.size());
  std::string out = "\x78\x01\x01";
  for (const unsigned number : {unsigned(size), unsigned(size) ^ 0xffff}) {
    out += static_cast<char>(number & 0xff);
    out += static_cast<char>(number >> 8);
  }
  return out + data + "sums";
}

inline std::string little(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

inline std::string tiny_dictionary() {
  const std::string zero(1, '\0'), one(1, '\1');
  const std::string block = stored(zero + "a\n" + one + "nd\n" + zero +
                                   "water\n\n\x86,\xa4\n\x86\x96\x8d\n\xb8\x80\xb0\x9d\n");
  const std::string index = stored(little(static_cast<std::uint32_t>(block.size())) + "a\n");
  return "ASADICT1" + little(1) + little(static_cast<std::uint32_t>(index.size())) + index + block;
}

// A unit a letter, two levels of n-grams.
inline std::string tiny_letters() {
  const std::string letters = "abcdefghijklmnopqrstuvwxyz'";
  std::string data(1, static_cast<char>(letters.size())), last, log_p;
  for (std::size_t i = 0; i < letters.size(); ++i) {
    data += letters[i];
    data += '\1';
    data += static_cast<char>(2 * i);
  }
  for (std::size_t i = 0; i <= letters.size(); ++i) {
    last += static_cast<char>(i);
    log_p += static_cast<char>(20 + i);
  }
  const std::string children = '\1' + std::string(letters.size(), '\0');
  data += '\2' + little(static_cast<std::uint32_t>(last.size())) + last + log_p + log_p + children;
  return "ASALTS01" + stored(data + little(1) + "\5\11\1");
}

inline std::string tiny_vocabulary() {
  std::string lines = "'\n.\n\xc4\xa0\n";
  for (const char first : {'a', 'A'}) {
    for (int i = 0; i < 26; ++i) lines += std::string(1, static_cast<char>(first + i)) + "\n";
  }
  return lines +
         "\xc4\xa0w\nat\n<|endoftext|>\n<|startoftranscript|>\n<|en|>\n<|transcribe|>\n"
         "<|notimestamps|>";
}

inline std::string tiny_characters() {
  const std::string accent = little(0xe9) + "\1\1e", quote = little(0x2019);
  return accent + quote + std::string("\0\1'", 3);
}

inline std::vector<TinyTensor> tiny_reading_tensors() {
  constexpr std::size_t d = 16, inner = 32, tokens = 64, positions = 256, classes = 40;
  constexpr std::size_t phone = 8, verdict = 4, seeds = 2, w = 8, reading = 352, word = 34;
  constexpr std::size_t net = 2, pooled = 4, profile = 2 * 3 * d, aspects = 2, centres = 3;
  constexpr std::size_t whole = reading + net, row = 30 + classes + 4 + word;
  std::vector<TinyTensor> all = tiny_encoder(100);
  const auto add = [&](const std::string& name, std::size_t count, float scale = 0.2f) {
    all.push_back({name, count, scale});
  };
  const auto pair = [&](const std::string& name, const char* first, std::size_t count,
                        const char* second, std::size_t other) {
    add(name + first, count);
    add(name + second, other);
  };
  all.push_back({"decoder.embeddings/weight", tokens * d, 0.5f, {}, true});
  add("decoder.position_encodings/encodings", positions * d);
  const auto norm = [&](const std::string& name) {
    pair(name + "layer_norm/", "gamma", d, "beta", d);
  };
  const auto linear = [&](const std::string& name, std::size_t in, std::size_t out) {
    pair("decoder.layer_0/" + name, "/weight", in * out, "/bias", out);
  };
  norm("decoder.layer_0/self_attention/");
  linear("self_attention/linear_0", d, 3 * d);
  linear("self_attention/linear_1", d, d);
  norm("decoder.layer_0/attention/");
  linear("attention/linear_0", d, d);
  linear("attention/linear_1", d, 2 * d);
  linear("attention/linear_2", d, d);
  norm("decoder.layer_0/ffn/");
  linear("ffn/linear_0", d, inner);
  linear("ffn/linear_1", inner, d);
  norm("decoder.");
  const auto layer = [&](const std::string& name, std::size_t in, std::size_t out,
                         std::size_t times = 1) {
    pair(name, ".weight", times * in * out, ".bias", times * out);
  };
  const auto standard = [&](const std::string& name, std::size_t count) {
    pair(name, ".mean", count, ".scale", count);
  };
  pair("phones.norm", ".weight", 2 * d, ".bias", 2 * d);
  layer("phones.fc1", 2 * d, phone);
  layer("phones.fc2", phone, classes);
  for (const auto& [name, inputs] :
       {std::pair{"mismatch", reading}, std::pair{"omission", std::size_t{83}},
        std::pair{"insertion", std::size_t{21}}}) {
    standard(name, inputs);
    layer(std::string(name) + ".fc1", inputs, verdict);
    layer(std::string(name) + ".fc2", verdict, 1);
  }
  add("usual", 2 * classes);
  add("text.frames.mean", 2 * d);
  add("text.frames.directions", 2 * d * 4);
  add("text.pooled.directions", profile * pooled);
  add("text.phone", seeds * classes * w);
  add("text.net_pooled", net);
  add("text.blend", aspects);
  add("text.kernel.reading", reading);
  add("text.kernel.pooled", pooled);
  add("text.kernel.centres", centres * (reading + pooled));
  add("text.kernel.weights", centres * aspects);
  add("text.kernel.mean", aspects);
  standard("text.input", row);
  standard("text.reading", reading);
  standard("text.pooled", profile);
  standard("text.words", word);
  standard("text.scores", aspects);
  standard("text.word_scores", 1);
  standard("text.phone_scores", 1);
  layer("text.input", row, w, seeds);
  layer("text.context", whole, w, seeds);
  for (const char* name : {"text.layers.0.norm1", "text.layers.0.norm2", "text.norm"}) {
    pair(name, ".weight", seeds * w, ".bias", seeds * w);
  }
  layer("text.layers.0.qkv", w, 3 * w, seeds);
  layer("text.layers.0.out", w, w, seeds);
  layer("text.layers.0.fc1", w, 16, seeds);
  layer("text.layers.0.fc2", 16, w, seeds);
  layer("text.attend", w, 1, seeds);
  layer("text.score1", 2 * w + whole, 4, seeds);
  layer("text.score2", 4, aspects, seeds);
  layer("text.word1", 2 * w + word, 4, seeds);
  layer("text.word2", 4, 1, seeds);
  layer("text.one", w, 1, seeds);
  all.push_back({"reader.dictionary", 0, 0, tiny_dictionary()});
  all.push_back({"reader.letters", 0, 0, tiny_letters()});
  all.push_back({"reader.vocabulary", 0, 0, tiny_vocabulary()});
  all.push_back({"reader.characters", 0, 0, tiny_characters()});
  all.push_back({"reader.abbreviations", 0, 0, "0\tmr\tmister\n6\tno\tnumber\n"});
  const std::vector<TinyTensor> voice = tiny_voice();
  all.insert(all.end(), voice.begin(), voice.end());
  return all;
}

inline FileWriter tiny_reading_description() {
  FileWriter about;
  for (const char* text : {"pronunciation", "tiny", "1", "none", "0.0.0", "fp32"}) about.text(text);
  for (const std::uint32_t number :
       {16u, 16u, 2u, 2u, 32u, 100u, kTinyWindow, 1600u, 0u, 1u, 1u, 2u, 32u, 64u, 256u,        1u,
        1u,  8u,  4u, 2u, 2u,  8u,   1u,          16u,   4u, 4u, 2u, 3u, 4u,  4u,  60u * 16000u}) {
    about.put(number);
  }
  for (const double limit : {1e3, 0.0, 0.0, 6.0, 1.0}) about.put(limit);
  about.put(std::uint32_t{2}).put(5.0).put(1.0).put(9.0).put(0.5).put(std::uint32_t{2});
  for (const char* name : {"fluency", "overall"}) {
    about.text(name).put(0.0).put(10.0).numbers({}).put(std::uint32_t{0});
    about.put(std::uint32_t{1}).put(1.0).put(0.9);
    about.put(std::uint32_t{2}).put(3.0).put(1.0).put(8.0).put(1.5);
  }
  return about;
}

inline Bytes tiny_reading_file() {
  return laid_out(tiny_reading_description(), tiny_reading_tensors());
}

// Words of the dictionary, of the letters, a title, an accent, a typographic quote.
inline constexpr char kTinyText[] = "A water, and Mr. Caf\xc3\xa9\xe2\x80\x99s no!";

}  // namespace asa::tests
