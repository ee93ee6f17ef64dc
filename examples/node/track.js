// Recognises a digit while it is read, pixel by pixel: npm install && node track.js FILE.csv
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { setTimeout: pause } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "..", "..", "protos");
const definition = protoLoader.loadSync("trivium/sequence/v1/sequence.proto", {
  includeDirs: [protos, path.join(protos, "third_party")],
  longs: Number,
});
const { SequenceService } = grpc.loadPackageDefinition(definition).trivium.sequence.v1;

const client = new SequenceService(
  process.env.TRIVIUM_ADDRESS || "localhost:8001",
  grpc.credentials.createInsecure(),
);

async function send(stream, pixels) {
  stream.write({ model: "digits-rnn", topK: 1 });
  for (const pixel of pixels) {
    stream.write({ values: [pixel] });
    await pause(20); // as if they came from a camera
  }
  stream.end();
}

async function main(files) {
  const [file] = files;
  if (files.length !== 1 || !fs.statSync(file, { throwIfNoEntry: false })?.isFile()) {
    console.error("usage: node track.js FILE.csv");
    process.exitCode = 2;
    return;
  }
  const pixels = fs.readFileSync(file, "utf8").split(",").map(Number);
  const stream = client.track();
  const ended = new Promise((resolve, reject) => stream.on("end", resolve).on("error", reject));
  stream.on("data", ({ steps }) => {
    for (const { step, classes: [best] } of steps) {
      console.log(`pixel ${step}: ${best.label} ${(best.probability * 100).toFixed(1)}%`);
    }
  });
  await Promise.all([send(stream, pixels), ended]);
}

main(process.argv.slice(2))
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => client.close());
