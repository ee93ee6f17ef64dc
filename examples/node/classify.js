// Classifies images: npm install && node classify.js IMAGE...
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "..", "..", "protos");
const definition = protoLoader.loadSync("trivium/vision/v1/vision.proto", {
  includeDirs: [protos, path.join(protos, "third_party")],
});
const { VisionService } = grpc.loadPackageDefinition(definition).trivium.vision.v1;

const TIMEOUT_MS = 10_000;
const client = new VisionService(
  process.env.TRIVIUM_ADDRESS || "localhost:8001",
  grpc.credentials.createInsecure(),
);

function classify(image) {
  const options = { deadline: Date.now() + TIMEOUT_MS };
  return new Promise((resolve, reject) => {
    client.classify({ image, topK: 3 }, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

async function main(files) {
  if (files.length === 0) {
    console.error("usage: node classify.js IMAGE...");
    process.exitCode = 2;
  }
  for (const file of files) {
    try {
      const { classes } = await classify(fs.readFileSync(file));
      const words = classes.map(({ label, probability }) => `${label} ${(probability * 100).toFixed(1)}%`);
      console.log(`${file}: ${words.join(", ")}`);
    } catch (error) {
      console.error(`${file}: ${error.message}`);
      process.exitCode = 1;
    }
  }
  client.close();
}

main(process.argv.slice(2));
