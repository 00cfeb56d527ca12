// Reads a result in Azure's form from standard input, as programs that use Azure do; prints what
// they would see.
const sdk = require("microsoft-cognitiveservices-speech-sdk");
const json = require("fs").readFileSync(0, "utf8");
const properties = new sdk.PropertyCollection();
properties.setProperty(sdk.PropertyId.SpeechServiceResponse_JsonResult, json);
const result = sdk.PronunciationAssessmentResult.fromResult({ properties });
const words = result.detailResult.Words.map((word) => ({
  word: word.Word,
  error: word.PronunciationAssessment.ErrorType,
  accuracy: word.PronunciationAssessment.AccuracyScore,
  phonemes: word.Phonemes.map((phoneme) => phoneme.Phoneme),
}));
console.log(
  JSON.stringify({
    accuracy: result.accuracyScore,
    fluency: result.fluencyScore,
    completeness: result.completenessScore,
    prosody: result.prosodyScore,
    pronunciation: result.pronunciationScore,
    words,
  }),
);
