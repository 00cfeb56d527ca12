// Checks statements of xAPI, a JSON array on standard input, as the learning record store Learning
// Locker does; prints what it has against each.
const validate = require("@learninglocker/xapi-validation").default;
const statements = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(statements.map((statement) => validate(statement))));
