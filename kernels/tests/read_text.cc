// How libasa reads texts: `read_text GRADER.asa` prints for each line of its input the words, what
// is said of each and how, the tokens of all; or why it is not read. tests/device compares with
// Python.
#include <cstdio>
#include <iostream>
#include <string>

#include "device_file.h"
#include "spoken_text.h"
#include "vocabulary.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const asa::MappedFile mapped(argv[1]);
  const asa::DeviceFile file(mapped.data(), mapped.size());
  const asa::TextReader reader(file.bytes("reader.dictionary"), file.bytes("reader.letters"),
                               file.bytes("reader.characters"), file.bytes("reader.abbreviations"));
  const asa::Vocabulary vocabulary(file.bytes("reader.vocabulary"),
                                   file.config().reading->decoder.tokens);
  for (std::string line; std::getline(std::cin, line);) {
    std::string said;
    try {
      std::string written;
      for (const asa::SpokenWord& word : reader.read(line)) {
        written += " " + word.spoken;
        said += word.text + "\t" + word.spoken;
        for (const asa::Pronunciation& pronunciation : word.pronunciations) {
          said += "\t";
          for (const int symbol : pronunciation) said += asa::symbol_name(symbol) + " ";
          said.pop_back();
        }
        said += "\n";
      }
      for (const int id : vocabulary.encode(written + ".")) said += std::to_string(id) + " ";
      said += "\n";
    } catch (const asa::TextError& error) {
      said = std::string("refused\t") + error.what() + "\n";
    }
    std::printf("%s\n", said.c_str());
  }
}
